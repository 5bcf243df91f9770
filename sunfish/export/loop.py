"""The whole sampler as one graph: the step as the body of a loop, so that one call from any language writes texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import onnx_ir as ir

from sunfish.sampler import COLUMNS
from sunfish.session import STATE

FLOAT, INT, BOOL = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.BOOL


def sampler_graph(step: ir.Model) -> ir.Model:
    """Return the graph (noise, chance, table, delay, place, ids, known, temperature) -> text over a step's nodes and weights.

    `table` is (1 + rows, 8), of `Table.rows`; a position walks it after waiting `delay`, (batch, pos), steps, of `Table.delays`. `noise`
    is (draws, batch, pos, emb) and `chance` (draws, batch, pos): one draw for the start, of which the chance is not used, and one for
    every step of which `sampler.draws` says so. Texts leave steps out as `sampler.next_time` says; the loop ends once all are known.
    """
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

    noise = _value("noise", FLOAT, ["draws", "batch", "pos", emb])
    chance = _value("chance", FLOAT, ["draws", "batch", "pos"])
    table = _value("table", FLOAT, ["rows_and_wait", len(COLUMNS)])
    types = {"ids": INT, "known": BOOL, "delay": INT, "place": INT}
    ids, known, delay, place = (_value(name, dtype, ["batch", "pos"]) for name, dtype in types.items())
    temperature = _value("temperature", FLOAT, ["batch"])
    tape = _Tape()
    x = tape.add("Gather", [noise, tape.constant("zero", 0)], "first_x")
    still = tape.add("Sub", [x, x], "first_x_0_prev")
    num_rows = tape.add("Gather", [tape.add("Shape", [table], "table_shape"), tape.constant("zero_again", 0)], "num_rows")
    last_row = tape.add("Sub", [num_rows, tape.constant("one", 1)], "last_row")
    steps = tape.add("Add", [last_row, tape.add("ReduceMax", [delay], "longest_delay", keepdims=0)], "num_steps")
    always = tape.constant("always", True)
    draw = tape.constant("first_draw", 0)

    outside = {"noise": noise, "chance": chance, "table": table, "delay": delay, "place": place, "last_row": last_row}
    body = _body(nodes, told, answers, outside | {"temperature": temperature})
    start = tape.add("Mul", [tape.add("ReduceMin", [delay, tape.constant("over_pos", [1])], "first_delay", keepdims=0),
                             tape.constant("zeroth", 0)], "first_time")  # fmt: skip
    carried = [x, still, ids, known, ids, draw, start]
    text = _value("text", INT, ["batch", "pos"])
    ends = [ir.Value(name=f"last_{name}") for name in ("x", "x_0_hat", "ids", "known")]
    loop = ir.node(
        "Loop",
        [steps, always, *carried],
        {"body": body},
        outputs=[*ends, text, ir.Value(name="num_draws"), ir.Value(name="last_time")],
        name="walk",
    )
    graph = ir.Graph(
        [noise, chance, table, delay, place, ids, known, temperature], [text], nodes=[*tape.nodes, loop], initializers=weights,
        opset_imports=dict(inner.opset_imports), name="sampler",
    )  # fmt: skip
    for value in weights:
        graph.initializers[str(value.name)] = value
    return ir.Model(graph, ir_version=step.ir_version, producer_name=step.producer_name, functions=list(step.functions.values()))


def _body(nodes: Sequence[ir.Node], told: dict[str, ir.Value], answers: dict[str, ir.Value], outside: dict[str, ir.Value]) -> ir.Graph:
    """Return (turn, go on, x, x_0_prev, ids, known, text, draw, time) -> (go on, the same of the next turn)."""
    tape = _Tape("turn.")
    turn, go_on = _value("turn", INT, []), _value("go_on", BOOL, [])
    text, draw = _value("turn.text_before", INT, ["batch", "pos"]), _value("turn.draw", INT, [])
    time = _value("turn.time", INT, ["batch"])
    next_one = tape.add("Add", [time, tape.constant("one", 1)], "next_one")
    begun = tape.add("Sub", [tape.add("Unsqueeze", [next_one, tape.constant("last_axis", [1])], "of_texts"), outside["delay"]], "begun")
    waiting = tape.add("Max", [begun, tape.constant("wait", 0)], "at_least_waiting")
    rows = tape.add("Gather", [outside["table"], tape.add("Min", [waiting, outside["last_row"]], "at")], "rows")
    columns = tape.constant("columns", [COLUMNS.index("c_n"), COLUMNS.index("drawn")])
    most = tape.add("ReduceMax", [tape.add("Gather", [rows, columns], "c_n_and_drawn", axis=2)], "most_drawn", keepdims=0)
    draws = tape.add("Greater", [most, tape.constant("nothing", 0.0)], "draws")
    drawn = tape.add("Add", [draw, tape.add("Cast", [draws], "count", to=INT)], "next_draw")
    noise, chance = (tape.add("Gather", [outside[name], drawn], name) for name in ("noise", "chance"))
    same = {name: outside[name] for name in ("place", "temperature")}
    for name, value in {"rows": rows, "noise": noise, "chance": chance, **same}.items():
        ir.convenience.replace_all_uses_with(told[name], value)
    state = [told[name] for name in STATE]
    for value in state:
        value.name = f"turn.{value.name}"
    after = _Tape("end.")
    settled = after.add("Cast", [answers[STATE["known"]]], "settled", to=INT)
    least = after.add("ReduceMin", [settled], "least", keepdims=0)
    more = after.add("Not", [after.add("Cast", [least], "all_settled", to=BOOL)], "go_on")
    known = answers[STATE["known"]]
    open_delay = after.add(
        "Where", [known, after.add("ReduceMax", [outside["delay"]], "latest", keepdims=0), outside["delay"]], "open_delay"
    )
    begins = after.add("ReduceMin", [open_delay, after.constant("over_pos", [1])], "begins", keepdims=0)
    outputs = [more, *(answers[name] for name in STATE.values()), answers["text"], drawn, after.add("Max", [next_one, begins], "next_time")]
    return ir.Graph([turn, go_on, *state, text, draw, time], outputs, nodes=[*tape.nodes, *nodes, *after.nodes], name="step")


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
        self.nodes.append(ir.node("Constant", [], {"value": tensor}, outputs=[output], name=self.prefix + name))
        return output


def _type_of(value: int | bool | float | list[int]) -> ir.DataType:
    return BOOL if isinstance(value, bool) else FLOAT if isinstance(value, float) else INT


def _value(name: str, dtype: ir.DataType, shape: Sequence[Any]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
