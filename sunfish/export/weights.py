"""Several graphs over one file of weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx_ir as ir

INLINE_BYTES = 1024  # smaller tensors stay in the graph: shapes and constants, which tools want to see
ALIGNMENT = 64  # bytes: a weight can be mapped into memory and read in place


def save_graphs(folder: Path, graphs: dict[str, ir.Model], weights_name: str) -> None:
    """Write `<name>.onnx` for every graph and one file of weights for all; what several graphs hold is
    written once.

    Graphs of any size can be written: only the weights' file grows beyond what protobuf holds.
    """
    tensors: dict[bytes, ir.TensorProtocol] = {}
    users: dict[bytes, list[ir.Value]] = {}
    for model in graphs.values():
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.nbytes > INLINE_BYTES:
                key = content(tensor.numpy())
                tensors.setdefault(key, tensor)
                users.setdefault(key, []).append(value)
    written = ir.external_data.convert_tensors_to_external(
        list(tensors.values()), folder, weights_name, alignment=ALIGNMENT
    )
    for key, tensor in zip(tensors, written, strict=True):
        for value in users[key]:
            value.const_value = tensor
    for name, model in graphs.items():
        ir.save(model, folder / f"{name}.onnx")


def content(array: np.ndarray) -> bytes:
    """Return what tells weights apart: a digest of type, shape and values."""
    return hashlib.sha256(
        f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes()
    ).digest()
