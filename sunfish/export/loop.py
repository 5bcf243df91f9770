"""A whole sampler as one graph, so that one call from any language writes texts: a loop over a plan's rows,
each of them a step of denoising or a check.

Only texts that a row concerns are computed: those with unknown positions, or, in a check, those that no check
has passed.
"""

from __future__ import annotations

from typing import Any, cast

import onnx_ir as ir

from sunfish.export.tape import BOOL, FLOAT, INT, Part, Tape, take_apart, typed_value
from sunfish.sampling.onnx_backend import PLAN_COLUMNS

CARRIED = ("x", "x_0_prev", "ids", "known", "text", "draws", "calls", "corrected", "going")
PER_TEXT = (
    "x",
    "x_0_prev",
    "ids",
    "known",
    "text",
)  # what a step or a check changes, of the texts it concerns
SCALARS = ("confidence_threshold", "epsilon_cutoff", "draws_tokens")


def sampler_graph(step: ir.Model, check: ir.Model | None = None) -> ir.Model:
    """Return the graph (noise, uniforms, plan, ids, known, temperature, scalars) -> (text, calls, corrected).

    Its nodes and weights are those of a step's graph, and of a check's.

    `plan` is (rows, columns), of `onnx_backend.plan_rows`. `noise` is (draws, batch, pos, emb) and `uniforms`
    (draws, batch, pos): the first draw is the start's noise, and each text takes the next one at each of its
    calls that draws. The loop ends once all texts are done."""
    weights: dict[str, ir.Value] = {}
    denoise = take_apart(step, "denoise.", weights)
    checking = None if check is None else take_apart(check, "check.", weights)
    emb = cast(ir.Shape, denoise.inputs["x"].shape)[2]
    told = _inputs(emb, has_check=check is not None)
    begin = Tape("begin.")
    start = _start(begin, told)
    body = _body(told, denoise, checking)
    ends = {name: ir.Value(name=f"end.{name}") for name in CARRIED}
    for name, dtype, shape in (
        ("text", INT, ["batch", "pos"]),
        ("calls", INT, ["batch"]),
        ("corrected", INT, ["batch"]),
    ):
        ends[name] = typed_value(name, dtype, shape)
    rows = begin.first(begin.add("Shape", [told["plan"]], "sizes"), "num_rows")
    loop = ir.node(
        "Loop",
        [rows, begin.constant("always", True), *start],
        {"body": body},
        outputs=list(ends.values()),
        name="rows",
    )
    graph = ir.Graph(
        list(told.values()), [ends[name] for name in ("text", "calls", "corrected")],
        nodes=[*begin.nodes, loop],
        initializers=list(weights.values()), opset_imports=dict(step.graph.opset_imports), name="sampler",
    )  # fmt: skip
    return ir.Model(graph, ir_version=step.ir_version, functions=list(step.functions.values()))


def _inputs(emb: Any, has_check: bool) -> dict[str, ir.Value]:
    """Return what the whole sampler is told."""
    shapes: dict[str, tuple[ir.DataType, list[Any]]] = {
        "noise": (FLOAT, ["draws", "batch", "pos", emb]), "uniforms": (FLOAT, ["draws", "batch", "pos"]),
        "plan": (FLOAT, ["rows", len(PLAN_COLUMNS)]), "ids": (INT, ["batch", "pos"]),
        "known": (BOOL, ["batch", "pos"]),
        "temperature": (FLOAT, ["batch"]), **{name: (FLOAT, []) for name in SCALARS},
    }  # fmt: skip
    if has_check:
        shapes["epsilon"] = FLOAT, []
    return {name: typed_value(name, *shape) for name, shape in shapes.items()}


def _start(tape: Tape, told: dict[str, ir.Value]) -> list[ir.Value]:
    """Return the state before the first row, in the order of `CARRIED`."""
    x = tape.add("Gather", [told["noise"], tape.constant("zero", 0)], "x")
    batch = tape.add("Shape", [told["temperature"]], "batch")
    none = tape.add("Expand", [tape.constant("nothing", 0), batch], "none")
    first = tape.add("Expand", [tape.constant("one", 1), batch], "first_draw")
    going = tape.add("Expand", [tape.constant("true", True), batch], "going")
    return [
        x,
        tape.add("Sub", [x, x], "x_0_prev"),
        told["ids"],
        told["known"],
        told["ids"],
        first,
        none,
        none,
        going,
    ]


def _body(told: dict[str, ir.Value], denoise: Part, checking: Part | None) -> ir.Graph:
    """Return (turn, go on, state) -> (go on, state): one row of the plan."""
    tape = Tape("row.")
    turn, go_on = typed_value("turn", INT, []), typed_value("go_on", BOOL, [])
    state = _state(cast(ir.Shape, told["noise"].shape)[3])
    columns = _columns(tape, told["plan"], turn)
    unknown = tape.add("Not", [_all_known(tape, state["known"], "before")], "unknown")
    wanted = tape.add("Or", [unknown, columns["is_check"]], "wanted")
    concerned = tape.add("And", [wanted, state["going"]], "concerned")
    rows = tape.add("Transpose", [tape.add("NonZero", [concerned], "found")], "rows")  # (texts, 1)
    here = _gather(tape, told, state, columns, rows)
    after = _compute(tape, here, denoise, checking)
    ends = {
        name: tape.add("ScatterND", [state[name], rows, after[name]], f"{name}_scattered")
        for name in PER_TEXT
    }
    one = tape.add("Cast", [concerned], "one", to=INT)
    ends["calls"] = tape.add("Add", [state["calls"], one], "calls_after")
    drawn = tape.add("Mul", [one, tape.add("Cast", [columns["draws_noise"]], "one_draw", to=INT)], "drawn")
    ends["draws"] = tape.add("Add", [state["draws"], drawn], "draws_after")
    ends["corrected"] = _count(tape, state, here, after, rows)
    ends["going"] = _going(tape, state, ends["known"], columns["is_check"] if checking else None)
    more = tape.add("ReduceMax", [tape.add("Cast", [ends["going"]], "goes", to=INT)], "most", keepdims=0)
    outputs = [tape.add("Cast", [more], "go_on_after", to=BOOL), *(ends[name] for name in CARRIED)]
    return ir.Graph([turn, go_on, *state.values()], outputs, nodes=tape.nodes, name="row")


def _state(emb: Any) -> dict[str, ir.Value]:
    """Return the state that is carried from row to row."""
    types = {"x": FLOAT, "x_0_prev": FLOAT, "known": BOOL, "going": BOOL}
    tail = {"x": ["pos", emb], "x_0_prev": ["pos", emb], "ids": ["pos"], "known": ["pos"], "text": ["pos"]}
    return {
        name: typed_value(f"now.{name}", types.get(name, INT), ["batch", *tail.get(name, [])])
        for name in CARRIED
    }


def _columns(tape: Tape, plan: ir.Value, turn: ir.Value) -> dict[str, ir.Value]:
    """Return a row's coefficients, its noise level, and its flags."""
    row = tape.add("Gather", [plan, turn], "plan_row")
    ends = [tape.constant(name, value) for name, value in (("begin", [0]), ("num_coefficients", [5]))]
    columns = {"coefficients": tape.add("Slice", [row, *ends], "coefficients")}
    for index, name in [(0, "logsnr"), *list(enumerate(PLAN_COLUMNS))[5:]]:
        columns[name] = tape.add("Gather", [row, tape.constant(f"column_{index}", index)], f"{name}_number")
    flags = {name: tape.add("Cast", [columns[name]], name, to=BOOL) for name in PLAN_COLUMNS[5:]}
    return columns | flags


def _gather(
    tape: Tape,
    told: dict[str, ir.Value],
    state: dict[str, ir.Value],
    columns: dict[str, ir.Value],
    rows: ir.Value,
) -> dict[str, ir.Value]:
    """Return what a step or a check reads, of the texts `rows` alone."""
    here = {name: tape.add("GatherND", [state[name], rows], f"{name}_here") for name in PER_TEXT}
    here["given"] = tape.add("GatherND", [told["known"], rows], "given_here")
    here["temperature"] = tape.add("GatherND", [told["temperature"], rows], "temperature_here")
    num_draws = tape.first(tape.add("Shape", [told["noise"]], "noise_sizes"), "num_draws")
    last = tape.add("Sub", [num_draws, tape.constant("one_less", 1)], "last_draw")
    draw = tape.add("Min", [tape.add("GatherND", [state["draws"], rows], "next_draws"), last], "draw")
    draw = tape.add("Unsqueeze", [draw, tape.constant("last_axis", [1])], "draw_column")
    where = tape.add("Concat", [draw, rows], "draw_and_row", axis=1)
    here |= {
        name: tape.add("GatherND", [told[name], where], f"{name}_here") for name in ("noise", "uniforms")
    }
    here |= {name: told[name] for name in (*SCALARS, "epsilon") if name in told}
    last_row = tape.add(
        "Where",
        [columns["is_last"], tape.constant("keeps_all", 0.0), told["confidence_threshold"]],
        "threshold",
    )
    return here | columns | {"confidence_threshold": last_row}


def _compute(
    tape: Tape, here: dict[str, ir.Value], denoise: Part, checking: Part | None
) -> dict[str, ir.Value]:
    """Return the next state of these texts, and which tokens were rejected."""
    _connect(denoise, here)
    out = denoise.outputs
    after = Tape("denoise.end.")
    none = after.add("Xor", [here["known"], here["known"]], "rejected")
    ours = [out["x_next"], out["x_0_hat"], out["ids_next"], out["known_next"], out["tokens"], none]
    names = (*PER_TEXT, "rejected")
    if checking is None:
        tape.nodes += [*denoise.nodes, *after.nodes]
        return dict(zip(names, ours, strict=True))
    _connect(checking, here | {"ids": here["text"]})
    out = checking.outputs
    ending = Tape("check.end.")
    still = ending.add("Sub", [here["x"], here["x"]], "x_0_prev")
    text = ending.add("Identity", [out["ids_next"]], "text")
    theirs = [out["x_next"], still, out["ids_next"], out["known_next"], text, out["rejected"]]
    branches = {
        "then_branch": ir.Graph([], theirs, nodes=[*checking.nodes, *ending.nodes], name="check"),
        "else_branch": ir.Graph([], ours, nodes=[*denoise.nodes, *after.nodes], name="denoise"),
    }
    outputs = [ir.Value(name=f"row.new_{name}") for name in names]
    tape.nodes.append(ir.node("If", [here["is_check"]], branches, outputs=outputs, name="check_or_denoise"))
    return dict(zip(names, outputs, strict=True))


def _connect(part: Part, values: dict[str, ir.Value]) -> None:
    for name, value in part.inputs.items():
        ir.convenience.replace_all_uses_with(value, values[name])


def _count(
    tape: Tape, state: dict[str, ir.Value], here: dict[str, ir.Value], after: dict[str, ir.Value],
    rows: ir.Value,
) -> ir.Value:  # fmt: skip
    """Return how many tokens of each text checks have replaced so far: no given ones."""
    free = tape.add("Not", [here["given"]], "free")
    replaced = tape.add(
        "Cast", [tape.add("And", [after["rejected"], free], "replaced")], "replaced_number", to=INT
    )
    some = tape.add("ReduceMax", [replaced, tape.constant("pos_axis", [1])], "some", keepdims=0)
    before = tape.add("GatherND", [state["corrected"], rows], "corrected_before")
    more = tape.add("Add", [before, some], "more")
    return tape.add("ScatterND", [state["corrected"], rows, more], "corrected_after")


def _going(tape: Tape, state: dict[str, ir.Value], known: ir.Value, is_check: ir.Value | None) -> ir.Value:
    """Return which texts go on: where there are checks, only a check ends a text."""
    unknown = tape.add("Not", [_all_known(tape, known, "after")], "unknown_after")
    if is_check is not None:
        unknown = tape.add("Or", [unknown, tape.add("Not", [is_check], "is_step")], "not_done")
    return tape.add("And", [unknown, state["going"]], "going_after")


def _all_known(tape: Tape, known: ir.Value, when: str) -> ir.Value:
    numbers = tape.add("Cast", [known], f"known_{when}", to=INT)
    least = tape.add("ReduceMin", [numbers, tape.constant(f"axis_{when}", [1])], f"least_{when}", keepdims=0)
    return tape.add("Cast", [least], f"all_known_{when}", to=BOOL)
