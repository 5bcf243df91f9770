"""Graphs built node by node out of the parts of others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import onnx_ir as ir

from sunfish.export.weights import content

FLOAT, INT, BOOL = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.BOOL


class Part(NamedTuple):
    """A graph taken apart, to be put into another one."""

    nodes: list[ir.Node]
    inputs: dict[str, ir.Value]
    outputs: dict[str, ir.Value]


def take_apart(model: ir.Model, prefix: str, weights: dict[str, ir.Value]) -> Part:
    """Return a graph's parts, its weights added to those of other graphs: what two hold is held once."""
    graph = model.graph.clone()
    inputs = {str(value.name): value for value in graph.inputs}
    outputs = {str(value.name): value for value in graph.outputs}
    nodes, initializers = list(graph), list(graph.initializers.values())
    graph.initializers.clear()
    graph.remove(nodes)
    graph.inputs.clear()
    graph.outputs.clear()
    for value in [output for node in nodes for output in node.outputs]:
        value.name = f"{prefix}{value.name}"
        _rename_batch(value)
    for value in initializers:
        _add_weight(value, prefix, weights)
    return Part(nodes, inputs, outputs)


def _rename_batch(value: ir.Value) -> None:
    """Call a step's batch `texts`: it is those of the batch that a row concerns."""
    sizes = [str(size) if isinstance(size, ir.SymbolicDim) else size for size in value.shape or ()]
    if "batch" in sizes:
        value.shape = ir.Shape(["texts" if size == "batch" else size for size in sizes])


def _add_weight(value: ir.Value, prefix: str, weights: dict[str, ir.Value]) -> None:
    there = weights.get(str(value.name))
    if there is not None and _content(there) == _content(value):
        ir.convenience.replace_all_uses_with(value, there)
        return
    if there is not None:
        value.name = f"{prefix}{value.name}"
    weights[str(value.name)] = value


def _content(value: ir.Value) -> bytes:
    assert value.const_value is not None, value.name
    return content(value.const_value.numpy())


class Tape:
    """Nodes in the making, their outputs named."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix, self.nodes = prefix, list[ir.Node]()

    def add(self, op: str, inputs: Sequence[ir.Value], name: str, **attributes: int) -> ir.Value:
        """Return the output of a new node."""
        output = ir.Value(name=self.prefix + name)
        self.nodes.append(ir.node(op, inputs, attributes, outputs=[output], name=self.prefix + name))
        return output

    def constant(self, name: str, value: int | bool | float | list[int]) -> ir.Value:
        """Return a constant, whole numbers in 64 bits."""
        output = ir.Value(name=self.prefix + name)
        tensor = ir.tensor(value, dtype=_type_of(value), name=self.prefix + name)
        self.nodes.append(
            ir.node("Constant", [], {"value": tensor}, outputs=[output], name=self.prefix + name)
        )
        return output

    def first(self, sizes: ir.Value, name: str) -> ir.Value:
        """Return a shape's first size."""
        return self.add("Gather", [sizes, self.constant(f"{name}_axis", 0)], name)


def _type_of(value: int | bool | float | list[int]) -> ir.DataType:
    return BOOL if isinstance(value, bool) else FLOAT if isinstance(value, float) else INT


def typed_value(name: str, dtype: ir.DataType, shape: Iterable[Any]) -> ir.Value:
    """Return an input or output of a type and shape."""
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
