"""torch -> ONNX: the denoiser, a step and a check, with dynamic batch and length, attention decomposed into
portable nodes.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter

import onnx_ir as ir
import torch
from torch import Tensor, nn

from sunfish.export.weights import content
from sunfish.model.denoiser import Denoiser
from sunfish.sampling.solvers import COEFFICIENTS
from sunfish.sampling.step import CheckStep, DenoiseStep

EXAMPLE_BATCH, EXAMPLE_LENGTH = 2, 7  # neither 0 nor 1: those would be taken for constants
ROW, TEXT = {0: "batch"}, {0: "batch", 1: "pos"}
FIXED: dict[int, str] = {}
SHAPES = {"coefficients": FIXED, "temperature": ROW, "logsnr": ROW}  # else TEXT, and none for a scalar


class _Plain(nn.Module):
    """A module with a plain tuple for an answer."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.module(*inputs))


def export_denoiser(denoiser: Denoiser, opset: int) -> ir.Model:
    """Return the graph (x_t, logsnr, x_0_prev, known, temperature) -> (x_0_hat, logits)."""
    x, x_0_prev, _, ids, ones = _example(denoiser)
    inputs = {"x_t": x, "logsnr": ones - 1, "x_0_prev": x_0_prev, "known": ids > 0, "temperature": ones}
    return _export(denoiser, denoiser, inputs, ["x_0_hat", "logits"], opset)


def export_step(denoiser: Denoiser, opset: int) -> ir.Model:
    """Return the graph of `DenoiseStep`; the outputs that are the next state end in `_next`."""
    x, x_0_prev, noise, ids, ones = _example(denoiser)
    inputs = {"x": x, "x_0_prev": x_0_prev, "ids": ids, "known": ids > 0, "noise": noise}
    inputs |= {"uniforms": x[..., 0].clone(), "coefficients": torch.zeros(len(COEFFICIENTS))}
    inputs |= {name: torch.tensor(0.0) for name in ("confidence_threshold", "epsilon_cutoff", "draws_tokens")}
    outputs = ["x_next", "x_0_hat", "ids_next", "known_next", "tokens", "confidence"]
    return _export(DenoiseStep(denoiser), denoiser, inputs | {"temperature": ones}, outputs, opset)


def export_check(denoiser: Denoiser, opset: int) -> ir.Model:
    """Return the graph of `CheckStep`: (ids, given, noise, uniforms, epsilon, logsnr, temperature) -> the
    next state, and which token was rejected.
    """
    x, _, noise, ids, ones = _example(denoiser)
    inputs = {"ids": ids, "given": ids > 0, "noise": noise, "uniforms": x[..., 0].clone()}
    inputs |= {"epsilon": torch.tensor(0.0), "logsnr": torch.tensor(0.0), "temperature": ones}
    outputs = ["x_next", "ids_next", "known_next", "rejected"]
    return _export(CheckStep(denoiser), denoiser, inputs, outputs, opset)


def _example(denoiser: Denoiser) -> tuple[Tensor, ...]:
    """Return x, x_0_prev and noise, each a tensor of its own (one given twice would be one input); ids; and
    ones per row.
    """
    x = torch.zeros(3, EXAMPLE_BATCH, EXAMPLE_LENGTH, denoiser.config.emb_dim)
    ids = torch.zeros(EXAMPLE_BATCH, EXAMPLE_LENGTH, dtype=torch.int64)
    return *x.unbind(), ids, torch.ones(EXAMPLE_BATCH)


def _shape(name: str, value: Tensor) -> dict[int, str]:
    return FIXED if value.ndim == 0 else SHAPES.get(name, TEXT)


def _export(
    module: nn.Module,
    denoiser: Denoiser,
    inputs: dict[str, Tensor],
    outputs: list[str],
    opset: int,
) -> ir.Model:
    with denoiser.embedding.cached_table(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shapes = tuple(_shape(name, value) for name, value in inputs.items())
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            _Plain(module), tuple(inputs.values()), dynamo=True, opset_version=opset,
            input_names=list(inputs), output_names=outputs,
            dynamic_shapes=(shapes,), verbose=False,
        )  # fmt: skip
        if program is None:
            raise RuntimeError("torch.onnx.export returned no program")
        _name_weights(program.model.graph, denoiser)
    _forget_source(program.model)
    return program.model


def _name_weights(graph: ir.Graph, denoiser: Denoiser) -> None:
    """Give every weight its name in the model, and the nodes that read it too: `val_158` says nothing to
    whoever opens the graph.

    The exporter transposes matrices and gives them numbers; they are found again by what they hold.
    """
    parameters = {
        name: value.detach().numpy()
        for name, value in denoiser.named_parameters()
        if name != "embedding.weight"
    }
    table = denoiser.embedding.table().detach()
    parameters["embedding.table"] = table.numpy()
    if not (denoiser.config.tied_head or denoiser.config.output_prior):
        del parameters["head.weight"]  # it is the readout
    known = {content(array): name for name, array in parameters.items()}
    known |= {content(array.T): f"{name}.T" for name, array in parameters.items() if array.ndim == 2}
    weight = denoiser.readout().weight.detach().numpy()  # ready where it is small, as nodes where it is large
    known[content(weight.T)] = "readout.weight.T"
    count = Counter[str]()
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        name = known.get(content(tensor.numpy())) if tensor is not None and tensor.size > 1 else None
        if name is None or name in graph.initializers:
            continue
        graph.initializers.pop(str(value.name))
        value.name = name
        graph.initializers[name] = value
        for node in value.consumers():
            reader = f"{name.removesuffix('.T').removesuffix('.weight')}.{node.op_type}"
            node.name = f"{reader}{count[reader] or ''}"
            count[reader] += 1
    for node in graph:
        source = node.inputs[1] if node.op_type == "MatMul" else None
        turned = source.producer() if source is not None else None
        if turned is not None and turned.op_type == "Transpose" and not _depends_on_inputs(turned):
            reader = _reads_table(node)  # ONNX Runtime turns the table once, as it loads the graph
            turned.name, node.name = f"{reader}.Transpose", f"{reader}.MatMul"


def _reads_table(node: ir.Node) -> str:
    """Say which of the two products with the embeddings this is, by what is added to it."""
    added = {
        value.name for after in node.outputs[0].consumers() for value in after.inputs if value is not None
    }
    return "posterior" if "unigram_bias" in added else "readout"


def _depends_on_inputs(node: ir.Node) -> bool:
    """Say whether a node's value depends on what a graph is called with, and not on weights alone."""
    producers = [(value, value.producer()) for value in node.inputs if value is not None]
    return any(
        _depends_on_inputs(before) if before is not None else value.const_value is None
        for value, before in producers
    )


def _forget_source(model: ir.Model) -> None:
    """Leave out where in whose files each node was traced: it is most of the graph, and differs from machine
    to machine.
    """
    model.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
