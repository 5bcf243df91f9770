"""Sample with the graphs of an exported folder behind ONNX Runtime: numpy in, numpy out, never torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from sunfish.errors import UserError
from sunfish.sampling.loop import Conditioning, SamplerPlan, Snapshot
from sunfish.sampling.noise import DrawNoise
from sunfish.sampling.solvers import COEFFICIENTS, SolverTable

FORMAT = 9  # of the exported folder: its files and what they hold
CPU = ("CPUExecutionProvider",)
PRECISIONS = ("fp32", "int8")
GRAPHS = {
    "model": "the denoiser: (x_t, logsnr, x_0_prev, known, temperature) -> (x_0_hat, logits)",
    "step": "a row of a solver's table at all positions: (x, x_0_prev, ids, known, noise, uniforms, "
    "coefficients, confidence_threshold, epsilon_cutoff, draws_tokens, temperature) -> the next state, "
    "tokens, confidence",
    "check": "one causal pass over a draft: (ids, given, noise, uniforms, epsilon, logsnr, temperature) -> "
    "the next state, rejected",
    "sampler": "a draft in one call: (noise, uniforms, plan, ids, known, temperature, confidence_threshold, "
    "epsilon_cutoff, draws_tokens) -> (text, calls, corrected)",
    "checked_sampler": "draft, check, correct, draft again in one call: the same and epsilon -> "
    "(text, calls, corrected)",
}
CHECKING = ("check", "checked_sampler")  # in the folder of a model that learned to check
PLAN_COLUMNS = (*COEFFICIENTS, "is_check", "is_last", "draws_noise")
STATE = ("x", "x_0_prev", "ids", "given", "known", "tokens", "confidence", "uniforms", "rejected")


def graph_names(can_check: bool) -> tuple[str, ...]:
    """Return the graphs that a folder holds."""
    return tuple(name for name in GRAPHS if can_check or name not in CHECKING)


def graph_path(folder: Path, graph: str, precision: str = PRECISIONS[0]) -> Path:
    """Return where an exported folder holds a graph."""
    return folder / "onnx" / f"{graph}{'' if precision == PRECISIONS[0] else '_quantized'}.onnx"


def weights_path(folder: Path, precision: str = PRECISIONS[0]) -> Path:
    """Return where an exported folder holds the weights of all graphs of a precision."""
    return graph_path(folder, "model", precision).with_suffix(".onnx_data")


def plan_rows(plan: SamplerPlan, length: int) -> np.ndarray:
    """Return a plan as the one-call graphs walk over it: a row a call, float32, (rows, `PLAN_COLUMNS`).

    A check's noise level, to which the next draft goes back, stands in column `logsnr`.
    """
    rounds = plan.max_rounds(length)
    draft = _table_rows(plan.draft)
    if plan.redraft is None or rounds == 0:
        return draft
    check = np.zeros((1, len(PLAN_COLUMNS)), np.float32)
    check[0, [0, 5, 7]] = plan.restart_logsnr, 1.0, 1.0
    again = np.concatenate((check, _table_rows(plan.redraft)))
    return np.concatenate((draft, np.tile(again, (rounds, 1))))


def _table_rows(table: SolverTable) -> np.ndarray:
    rows = np.zeros((len(table), len(PLAN_COLUMNS)), np.float32)
    rows[:, :5], rows[-1, 6], rows[:, 7] = table.rows, 1.0, table.is_stochastic
    return rows


def plan_scalars(plan: SamplerPlan) -> dict[str, float]:
    """Return what the one-call graphs are told beside a plan's rows."""
    config = plan.config
    scalars = {"confidence_threshold": config.confidence_threshold, "epsilon_cutoff": config.epsilon_cutoff}
    scalars["draws_tokens"] = float(plan.draft.draws_tokens)
    return scalars if config.check is None else {**scalars, "epsilon": config.check.epsilon}


def open_session(
    path: Path, num_threads: int | None = None, providers: Sequence[str] = CPU
) -> ort.InferenceSession:
    """Load a graph.

    Raises:
        UserError: a provider that is not installed, or a file that is no graph.
    """
    there = ort.get_available_providers()
    missing = [name for name in providers if name not in there]
    if missing:
        raise UserError(f"{missing[0]} is not installed; this onnxruntime has {', '.join(there)}")
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads or usable_cores()
    options.inter_op_num_threads = 1
    options.add_session_config_entry(
        "session.disable_quant_qdq", "1"
    )  # weights kept in 8 bits are read once, not in every call
    try:
        return ort.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # the library's own exceptions share no class
        raise UserError(f"{path}: cannot be loaded by onnxruntime ({str(error).splitlines()[0]})") from error


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


OpenGraph = Callable[[str], ort.InferenceSession]  # a graph's name -> the graph, loaded


class OnnxBackend:
    """The `SamplerBackend` of an exported folder; `draw` gives the noise.

    Only texts with unknown positions draw noise in a step, so that a text's noise does not depend on the
    texts beside it.
    """

    def __init__(self, open_graph: OpenGraph, draw: DrawNoise, plan: SamplerPlan) -> None:
        self.open_graph, self.draw, self.config = open_graph, draw, plan.config

    def start(self, conditioning: Conditioning) -> None:
        self.rows = np.arange(len(conditioning.ids))
        self.ids, self.given = conditioning.ids.astype(np.int64), conditioning.known.copy()
        self.x, self.uniforms = self.draw(self.rows)
        self.known, self.tokens = self.given, self.ids
        self.confidence, self.rejected = np.zeros(self.ids.shape, np.float32), np.zeros(self.ids.shape, bool)
        self.x_0_prev = np.zeros_like(self.x)

    def denoise(self, table: SolverTable, index: int) -> None:
        noise = self._draw_unknown() if table.is_stochastic else self.x_0_prev  # times c_n = 0
        threshold = 0.0 if index == len(table) - 1 else self.config.confidence_threshold
        inputs = {name: getattr(self, name) for name in ("x", "x_0_prev", "ids", "known", "uniforms")}
        inputs |= {"noise": noise, "coefficients": table.rows[index].astype(np.float32)}
        inputs |= self._scalars(
            confidence_threshold=threshold,
            epsilon_cutoff=self.config.epsilon_cutoff,
            draws_tokens=table.draws_tokens,
        )
        self.x, self.x_0_prev, self.ids, self.known, self.tokens, self.confidence = self._run("step", inputs)

    def check(self, epsilon: float, logsnr: float) -> None:
        noise, uniforms = self.draw(self.rows)
        inputs = {"ids": self.tokens, "given": self.given, "noise": noise, "uniforms": uniforms}
        inputs |= self._scalars(epsilon=epsilon, logsnr=logsnr)
        self.x, self.ids, self.known, self.rejected = self._run("check", inputs)
        self.tokens, self.x_0_prev = self.ids, np.zeros_like(self.x)

    def snapshot(self) -> Snapshot:
        confidence = np.where(self.known, np.float32(1.0), self.confidence)
        return Snapshot(self.rows, self.tokens, confidence, self.known, self.rejected)

    def keep(self, going: np.ndarray) -> None:
        for name in ("rows", *STATE):
            setattr(self, name, getattr(self, name)[going])

    def _draw_unknown(self) -> np.ndarray:
        """Draw noise and uniforms for the texts that are not decided yet, and return the noise."""
        unknown = ~self.known.all(axis=1)
        noise, self.uniforms = np.zeros_like(self.x), self.uniforms.copy()
        if unknown.any():
            noise[unknown], self.uniforms[unknown] = self.draw(self.rows[unknown])
        return noise

    def _scalars(self, **values: float) -> dict[str, np.ndarray]:
        scalars = {name: np.array(value, np.float32) for name, value in values.items()}
        return {**scalars, "temperature": np.full(len(self.rows), self.config.temperature, np.float32)}

    def _run(self, graph: str, inputs: dict[str, np.ndarray]) -> Any:
        return self.open_graph(graph).run(None, inputs)
