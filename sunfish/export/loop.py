"""The whole sampler as one graph: the step as the body of a loop, so that one call from any language writes
texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import onnx_ir as ir

from sunfish.sampling.onnx_backend import STATE
from sunfish.sampling.solvers import COLUMNS

FLOAT, INT, BOOL = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.BOOL


def sampler_graph(step: ir.Model) -> ir.Model:
    """Return the graph (noise, chance, table, steps, place, ids, known, temperature) -> text over a step's
    nodes and weights.

    `table` is (1 + rows, 9), of `Table.rows`, and `steps`, (), how many a walk takes at most. `noise` is
    (draws, batch, pos, emb) and
    `chance` (draws, batch, pos): one draw for the start, of which the chance is not used, and one for every
    step; the start's alone where a table draws nothing. The loop ends once all are known."""
    inner = step.graph.clone()
    told = {str(value.name): value for value in inner.inputs}
    answers = {str(value.name): value for value in inner.outputs}
    emb = cast(ir.Shape, told["x"].shape)[2]
    nodes, weights = list(inner), list(inner.initializers.values())
    for value in weights:
        inner.initializers.pop(str(value.name))
    inner.remove(nodes)
    inner.inputs.clear()
    inner.outputs.clear()
    for node in nodes:
        for value in node.outputs:
            value.name = f"step.{value.name}"

    noise, chance = (
        _value("noise", FLOAT, ["draws", "batch", "pos", emb]),
        _value("chance", FLOAT, ["draws", "batch", "pos"]),
    )
    table, steps = _value("table", FLOAT, ["rows_and_wait", len(COLUMNS)]), _value("steps", INT, [])
    place, ids, known = (
        _value(name, dtype, ["batch", "pos"])
        for name, dtype in (("place", INT), ("ids", INT), ("known", BOOL))
    )
    temperature = _value("temperature", FLOAT, ["batch"])
    tape = _Tape()
    x = tape.add("Gather", [noise, tape.constant("zero", 0)], "first_x")
    still = tape.add("Sub", [x, x], "first_x_0_prev")
    nobody = tape.add("Sub", [place, place], "first_age")
    sizes = tape.add("Shape", [noise], "noise_sizes")
    last_draw = tape.add(
        "Sub",
        [tape.add("Gather", [sizes, tape.constant("of_draws", 0)], "num_draws"), tape.constant("one", 1)],
        "last_draw",
    )
    always = tape.constant("always", True)

    outside = {
        "noise": noise,
        "chance": chance,
        "table": table,
        "steps": steps,
        "place": place,
        "last_draw": last_draw,
    }
    body = _body(nodes, told, answers, outside | {"temperature": temperature})
    carried = [x, still, ids, known, nobody, ids]
    text = _value("text", INT, ["batch", "pos"])
    ends = [ir.Value(name=f"last_{name}") for name in STATE]
    loop = ir.node("Loop", [steps, always, *carried], {"body": body}, outputs=[*ends, text], name="walk")
    graph = ir.Graph(
        [noise, chance, table, steps, place, ids, known, temperature], [text], nodes=[*tape.nodes, loop], initializers=weights,
        opset_imports=dict(inner.opset_imports), name="sampler",
    )  # fmt: skip
    for value in weights:
        graph.initializers[str(value.name)] = value
    return ir.Model(
        graph,
        ir_version=step.ir_version,
        producer_name=step.producer_name,
        functions=list(step.functions.values()),
    )


def _body(
    nodes: Sequence[ir.Node],
    told: dict[str, ir.Value],
    answers: dict[str, ir.Value],
    outside: dict[str, ir.Value],
) -> ir.Graph:
    """Return (turn, go on, x, x_0_prev, ids, known, age, text) -> (go on, the same of the next turn)."""
    tape = _Tape("turn.")
    turn, go_on = _value("turn", INT, []), _value("go_on", BOOL, [])
    text = _value("turn.text_before", INT, ["batch", "pos"])
    texts = tape.add("Shape", [outside["temperature"]], "texts")
    left = tape.add("Expand", [tape.add("Sub", [outside["steps"], turn], "steps_left"), texts], "left")
    draw = tape.add(
        "Min", [tape.add("Add", [turn, tape.constant("one", 1)], "next_draw"), outside["last_draw"]], "draw"
    )
    noise, chance = (tape.add("Gather", [outside[name], draw], name) for name in ("noise", "chance"))
    same = {name: outside[name] for name in ("table", "place", "temperature")}
    for name, value in {"left": left, "noise": noise, "chance": chance, **same}.items():
        ir.convenience.replace_all_uses_with(told[name], value)
    state = [told[name] for name in STATE]
    for value in state:
        value.name = f"turn.{value.name}"
    after = _Tape("end.")
    settled = after.add("Cast", [answers[STATE["known"]]], "settled", to=INT)
    least = after.add("ReduceMin", [settled], "least", keepdims=0)
    more = after.add("Not", [after.add("Cast", [least], "all_settled", to=BOOL)], "go_on")
    outputs = [more, *(answers[name] for name in STATE.values()), answers["text"]]
    return ir.Graph(
        [turn, go_on, *state, text], outputs, nodes=[*tape.nodes, *nodes, *after.nodes], name="step"
    )


class _Tape:
    """Nodes in the making, their outputs named."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix, self.nodes = prefix, list[ir.Node]()

    def add(self, op: str, inputs: Sequence[ir.Value], name: str, **attributes: int) -> ir.Value:
        output = ir.Value(name=self.prefix + name)
        self.nodes.append(ir.node(op, inputs, attributes, outputs=[output], name=self.prefix + name))
        return output

    def constant(self, name: str, value: int | bool | float | list[int]) -> ir.Value:
        output = ir.Value(name=self.prefix + name)
        tensor = ir.tensor(value, dtype=_type_of(value), name=self.prefix + name)
        self.nodes.append(
            ir.node("Constant", [], {"value": tensor}, outputs=[output], name=self.prefix + name)
        )
        return output


def _type_of(value: int | bool | float | list[int]) -> ir.DataType:
    return BOOL if isinstance(value, bool) else FLOAT if isinstance(value, float) else INT


def _value(name: str, dtype: ir.DataType, shape: Sequence[Any]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
