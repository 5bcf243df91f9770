"""Hold the exported graphs against torch: one call, and whole walks on shared noise, by several programs that run ONNX."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor

from sunfish.model.inference import TorchNetwork
from sunfish.model.store import StoredDenoiser
from sunfish.progress import Progress
from sunfish.sampler import Given, Table, finish
from sunfish.session import OnnxNetwork, open_session

MOST_ROWS, MOST_DRAWN_BYTES = 32, 2**28  # at a time
Engine = Callable[
    [Table, Given, np.ndarray, np.ndarray, float], np.ndarray
]  # (table, given, delay, every draw's noise, temperature) -> ids


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return max |a - b| / max |a|."""
    return float(np.abs(ours - theirs).max() / np.abs(ours).max())


def call_error(stored: StoredDenoiser, session: ort.InferenceSession, rng: np.random.Generator) -> float:
    """Return the worst relative error of one call of the denoiser's graph, over shapes it was not exported with."""
    emb, worst = stored.denoiser.section.emb_dim, 0.0
    for batch, length in ((1, 1), (1, stored.lengths.longest), (3, 5)):
        x, previous = rng.standard_normal((2, batch, length, emb), dtype=np.float32)
        level = rng.uniform(stored.law.logsnr[-1], stored.law.logsnr[0], (batch, length)).astype(np.float32)
        known, heat = rng.random((batch, length)) < 0.3, np.ones(batch, np.float32)
        with torch.no_grad():
            ours = stored.denoiser(*map(torch.from_numpy, (x, level, previous, known, heat)))
        told = {"x_t": x, "logsnr": level, "x_0_prev": previous, "known": known, "temperature": heat}
        for a, b in zip(ours, session.run(["x_0_hat", "logits"], told), strict=True):
            worst = max(worst, relative_error(a.numpy(), b))
    return worst


def step_by_step(graph: Path) -> Engine:
    """Return ONNX Runtime on a step graph, as the runtime uses it."""
    session = open_session(graph, torch.get_num_threads())

    def run(table: Table, given: Given, delay: np.ndarray, noise: np.ndarray, temperature: float) -> np.ndarray:
        draws = iter(noise)
        return finish(table, OnnxNetwork(session, lambda: next(draws), temperature), given, delay)

    return run


def in_graph(graph: Path, program: str) -> Engine:
    """Return a program that runs ONNX on the whole sampler's graph: `onnxruntime`, `reference` (onnx's evaluator) or `openvino`."""
    call = {"onnxruntime": _with_onnxruntime, "reference": _with_reference, "openvino": _with_openvino}[program](graph)

    def run(table: Table, given: Given, delay: np.ndarray, noise: np.ndarray, temperature: float) -> np.ndarray:
        heat = np.full(len(given.ids), temperature, np.float32)
        rows = table.rows().astype(np.float32)
        return call({"noise": noise, "table": rows, "delay": delay, "ids": given.ids, "known": given.known, "temperature": heat})

    return run


Call = Callable[[dict[str, np.ndarray]], np.ndarray]


def _with_onnxruntime(graph: Path) -> Call:
    session = open_session(graph, torch.get_num_threads())
    return lambda told: session.run(["text"], told)[0]


def _with_reference(graph: Path) -> Call:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(graph))
    return lambda told: np.asarray(next(iter(evaluator.run(["text"], told))))


def _with_openvino(graph: Path) -> Call:
    import openvino

    compiled = openvino.Core().compile_model(str(graph), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda told: np.asarray(compiled(told)[0])


def has_openvino() -> bool:
    """Say whether OpenVINO is installed: it is in the development layer only."""
    return importlib.util.find_spec("openvino") is not None


def hold_against_torch(
    stored: StoredDenoiser, engines: dict[str, Engine], name: str, table: Table, num: int, tie_margin: float, temperature: float = 1.0
) -> list[dict[str, Any]]:
    """Return, for each engine, how many of `num` texts' ids differ from torch's after a walk on the same noise.

    An id that differs where torch's best two logits are closer than `tie_margin` at the end is a near-tie and counted apart.
    """
    length, emb = stored.lengths.longest, stored.denoiser.section.emb_dim
    rows = max(1, min(MOST_ROWS, MOST_DRAWN_BYTES // (4 * (1 + len(table)) * length * emb)))
    counts = {engine: np.zeros(2, int) for engine in engines}
    with Progress(f"parity, {name} {len(table)}", num, "texts") as progress:
        for start in range(0, num, rows):
            given = Given.nothing(min(rows, num - start), length)
            rng = np.random.default_rng(start)
            delay = table.delays(given.known, rng)
            noise = rng.standard_normal((table.num_draws(delay), *given.ids.shape, emb), dtype=np.float32)
            with _last_logits(stored) as last, stored.denoiser.embedding.held(), torch.no_grad():
                ours = finish(table, TorchNetwork(stored.denoiser, _Replay(noise), temperature), given, delay)
            best = last[0].topk(2).values.numpy()
            tie = best[..., 0] - best[..., 1] < tie_margin
            for engine, run in engines.items():
                unequal = run(table, given, delay, noise, temperature) != ours
                counts[engine] += ((unequal & ~tie).sum(), (unequal & tie).sum())
            progress.add(len(given.ids))
    walked = {"sampler": name, "steps": len(table), "rows_a_position": len(table.logsnr), "texts": num, "ids": num * length}
    return [
        {"engine": engine, **walked, "different_ids": int(different), "near_ties": int(ties)}
        for engine, (different, ties) in counts.items()
    ]


class _Replay(np.random.Generator):
    """A generator whose standard normals are those given."""

    def __init__(self, noise: np.ndarray) -> None:
        super().__init__(np.random.PCG64(0))
        self.draws = iter(noise)

    def standard_normal(self, *_: Any, **__: Any) -> Any:
        return next(self.draws)


@contextmanager
def _last_logits(stored: StoredDenoiser) -> Iterator[list[Tensor]]:
    """Inside the block, the list holds the logits of the denoiser's last call."""
    last: list[Tensor] = []
    handle = stored.denoiser.register_forward_hook(lambda _, __, prediction: last.__setitem__(slice(None), [prediction.logits]))
    try:
        yield last
    finally:
        handle.remove()
