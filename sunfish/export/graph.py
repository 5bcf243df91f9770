"""torch -> ONNX: the denoiser and the sampler's step, with dynamic batch and length, attention decomposed
into portable nodes.
"""

from __future__ import annotations

import logging
import warnings

import onnx_ir as ir
import torch
from torch import Tensor, nn

from sunfish.export.weights import content
from sunfish.model.denoiser import Denoiser
from sunfish.model.guess import Guess
from sunfish.model.picard import Picard
from sunfish.model.score import Score
from sunfish.sampling.solvers import COLUMNS
from sunfish.sampling.step import Step

EXAMPLE_BATCH, EXAMPLE_LENGTH, EXAMPLE_ROWS = 2, 7, 5  # neither 0 nor 1: those would be taken for constants
ROW, TEXT = {0: "batch"}, {0: "batch", 1: "pos"}


class _Plain(nn.Module):
    """A module with a plain tuple for an answer."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        answer = self.module(*inputs)
        return (answer,) if isinstance(answer, Tensor) else tuple(answer)


def export_denoiser(denoiser: Denoiser, opset: int) -> ir.Model:
    """Return the graph (x_t, logsnr, x_0_prev, known, turn, temperature) -> (x_0_hat, logits)."""
    x, previous, _, ids = _example(denoiser)
    inputs = {"x_t": x, "logsnr": x[..., 0].clone(), "x_0_prev": previous, "known": ids > 0, "turn": ids}
    inputs |= {"temperature": torch.ones(EXAMPLE_BATCH)}
    shapes = {**dict.fromkeys(("x_t", "logsnr", "x_0_prev", "known", "turn"), TEXT), "temperature": ROW}
    return _export(denoiser, denoiser, inputs, shapes, ["x_0_hat", "logits"], opset)


def export_step(denoiser: Denoiser, opset: int, in_loop: bool = False) -> ir.Model:
    """Return the graph of `Step`: the state, noise, chance, table, place, steps left and temperature -> the
    next, text, certainty.

    As the body of a loop it has no branches (docs/LOG.md, OpenVINO).
    """
    return _export_step(Step(denoiser, branches=not in_loop), denoiser, opset)


def export_picard(denoiser: Denoiser, opset: int) -> ir.Model:
    """Return the graph of `Picard`, whose inputs and answers are `Step`'s."""
    return _export_step(Picard(denoiser), denoiser, opset)


def export_guess(guess: Guess, opset: int) -> ir.Model:
    """Return the graph of `Guess`, whose inputs and answers are `Step`'s, too."""
    return _export_step(guess, guess.denoiser, opset)


def _export_step(step: nn.Module, denoiser: Denoiser, opset: int) -> ir.Model:
    x, previous, noise, ids = _example(denoiser)
    inputs = {
        "x": x,
        "x_0_prev": previous,
        "ids": ids,
        "known": ids > 0,
        "age": ids.clone(),
        "noise": noise,
        "chance": x[..., 0].clone(),
    }
    inputs |= {"table": torch.zeros(EXAMPLE_ROWS, len(COLUMNS)), "place": ids.clone(), "left": ids[:, 0] + 1}
    inputs |= {"temperature": torch.ones(EXAMPLE_BATCH)}
    shapes = {**dict.fromkeys(inputs, TEXT), "table": {0: "rows_and_wait"}, "left": ROW, "temperature": ROW}
    outputs = ["x_next", "x_0_hat", "ids_next", "known_next", "age_next", "text", "probability"]
    return _export(step, denoiser, inputs, shapes, outputs, opset)


def export_score(denoiser: Denoiser, opset: int) -> ir.Model:
    """Return the graph of `Score`: ids -> nats of each token, given those before it."""
    return _export(Score(denoiser), denoiser, {"ids": _example(denoiser)[-1]}, {"ids": TEXT}, ["nats"], opset)


def _example(denoiser: Denoiser) -> list[Tensor]:
    x = torch.zeros(
        3, EXAMPLE_BATCH, EXAMPLE_LENGTH, denoiser.section.emb_dim
    )  # apart: a tensor given twice becomes one input
    return [*x.unbind(), torch.zeros(EXAMPLE_BATCH, EXAMPLE_LENGTH, dtype=torch.int64)]


def _export(
    module: nn.Module,
    denoiser: Denoiser,
    inputs: dict[str, Tensor],
    shapes: dict[str, dict[int, str]],
    outputs: list[str],
    opset: int,
) -> ir.Model:
    with denoiser.embedding.held(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            _Plain(module), tuple(inputs.values()), dynamo=True, opset_version=opset, input_names=list(inputs), output_names=outputs,
            dynamic_shapes=(tuple(shapes.values()),), verbose=False,
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
    if not (denoiser.section.tied_head or denoiser.section.output_prior):
        del parameters["head.weight"]  # it is the readout
    known = {content(array): name for name, array in parameters.items()}
    known |= {content(array.T): f"{name}.T" for name, array in parameters.items() if array.ndim == 2}
    weight = (
        denoiser.readout(table).weight.detach().numpy()
    )  # ready where it is small, as nodes where it is large
    known[content(weight.T)] = "readout.weight.T"
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        name = known.get(content(tensor.numpy())) if tensor is not None and tensor.size > 1 else None
        if name is None or name in graph.initializers:
            continue
        graph.initializers.pop(str(value.name))
        value.name = name
        graph.initializers[name] = value
        for number, node in enumerate(value.consumers()):
            node.name = f"{name.removesuffix('.T').removesuffix('.weight')}.{node.op_type}{number or ''}"
    for node in graph:
        turned = (
            node.inputs[1].producer() if node.op_type == "MatMul" and node.inputs[1] is not None else None
        )
        if turned is not None and turned.op_type == "Transpose" and not _depends_on_inputs(turned):
            turned.name, node.name = (
                "readout.Transpose",
                "readout.MatMul",
            )  # ONNX Runtime turns the table once, as it loads the graph


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
