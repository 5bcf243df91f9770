"""fp32 -> int8: products of 8-bit weights and 8-bit activations where time goes, 8-bit weights alone where
only memory does.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx_ir as ir
from onnxruntime.quantization import QuantType, quantize_dynamic

BLOCK = re.compile(r"^transformer\.blocks\.\d+\.")
MAX_PROTOBUF = 2**31 - 2**24  # bytes of weights that fit into the graph's own file
TURNED = "_Transposed"  # what quantize_dynamic calls the weights of a Gemm, which it makes a product
READOUT = "readout.weight.T"


def quantize(
    model: ir.Model, products: Sequence[str], weights: Sequence[str], halves: Sequence[str] = ()
) -> ir.Model:
    """Return the graph with layers of some kinds in 8 bits; what no list names stays fp32. The given graph is
    used up.

    A kind is the name of a layer without its block: `attention.qkv`, `mlp.up`, `readout`, ... For `products`
    the activations are quantised as they come, one scale a call, and the weights once, one scale an output;
    for `weights` the weights alone are, one scale an output, and are read as fp32; `halves` are weights of 16
    bits, read as fp32."""
    if "readout" in (*products, *weights, *halves):
        _join_readout(model.graph)
    nodes = [str(node.name) for node in model.graph if node.op_type == "MatMul" and kind_of(node) in products]
    if nodes:
        model = _quantize_products(model, nodes)
    for value in list(model.graph.initializers.values()):
        kind = kind_of_weight(str(value.name))
        if kind in weights and _array(value).ndim == 2:
            _quantize_weight(model.graph, value)
        elif kind in halves:
            _read_through(
                model.graph,
                value,
                {"half": _array(value).astype(np.float16)},
                "Cast",
                {"to": ir.DataType.FLOAT},
            )
    return model


def kind_of(node: ir.Node) -> str:
    """Return the kind of the layer that a product belongs to, '' for one without weights."""
    weight = node.inputs[1]
    return kind_of_weight(str(weight.name)) if weight is not None and weight.const_value is not None else ""


def kind_of_weight(name: str) -> str:
    """Return `mlp.up` for `transformer.blocks.3.mlp.up.weight.T`."""
    return BLOCK.sub("", name).removesuffix(TURNED).removesuffix(".T").removesuffix(".weight")


def _array(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None, value.name
    return value.const_value.numpy()


def _join_readout(graph: ir.Graph) -> None:
    """Make what logits are a product with, the transposed table beside the head or by itself, a weight: only
    weights are quantised.
    """
    for node in [n for n in graph if n.name == "readout.Transpose"]:
        source = cast(ir.Value, node.inputs[0])
        joined = source.producer()
        parts = [source] if joined is None else [cast(ir.Value, part) for part in joined.inputs]
        tensor = ir.tensor(
            np.ascontiguousarray(np.concatenate([_array(part) for part in parts], axis=-1).T), name=READOUT
        )
        value = _add_weight(graph, tensor)
        ir.convenience.replace_all_uses_with(node.outputs[0], value)
        graph.remove([node] if joined is None else [node, joined], safe=True)
        for part in parts:
            if not part.consumers():
                del graph.initializers[str(part.name)]


def _quantize_products(model: ir.Model, nodes: list[str]) -> ir.Model:
    size = sum(_array(value).nbytes for value in model.graph.initializers.values())
    external = size > MAX_PROTOBUF
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        ir.external_data.load_to_model(model)
        ir.save(model, before, external_data="fp32.data" if external else None)
        logging.disable(logging.WARNING)  # it advises a preparation that attention written out does not need
        try:
            quantize_dynamic(
                before, after, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8,
                nodes_to_quantize=nodes, use_external_data_format=external, reduce_range=True,
                extra_options={"MatMulConstBOnly": True},
            )  # fmt: skip
        finally:
            logging.disable(logging.NOTSET)
        quantized = ir.load(after)
        ir.external_data.load_to_model(quantized)
    return quantized


def _quantize_weight(graph: ir.Graph, value: ir.Value) -> None:
    """Put int8 and a scale for each output in a weight's place: along a Gemm's first axis, a product's last,
    the table's entries.
    """
    array = _array(value)
    axis = 1 if str(value.name).endswith((".T", TURNED)) else 0
    scale = np.maximum(np.abs(array).max(axis=1 - axis), np.finfo(np.float32).tiny) / 127
    rounded = np.round(array / np.expand_dims(scale, 1 - axis)).astype(np.int8)
    _read_through(
        graph,
        value,
        {"quantized": rounded, "scale": scale.astype(np.float32)},
        "DequantizeLinear",
        {"axis": axis},
    )


def _read_through(
    graph: ir.Graph, value: ir.Value, parts: dict[str, np.ndarray], op: str, attributes: dict[str, Any]
) -> None:
    """Replace a weight by its parts and the node that makes fp32 of them."""
    name = str(value.name)
    inputs = [_add_weight(graph, ir.tensor(data, name=f"{name}_{part}")) for part, data in parts.items()]
    del graph.initializers[name]
    read = ir.node(op, inputs, attributes, outputs=[ir.Value(name=f"{name}_read")], name=f"{name}.{op}")
    ir.convenience.replace_all_uses_with(value, read.outputs[0])
    graph.insert_before(graph[0], read)


def _add_weight(graph: ir.Graph, tensor: ir.TensorProtocol) -> ir.Value:
    value = ir.Value(
        name=tensor.name,
        const_value=tensor,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(cast(Any, tensor.shape)),
    )
    graph.initializers[str(tensor.name)] = value
    return value
