"""Hold the exported graphs against torch: one call, and whole walks on shared noise, by several programs that
run ONNX.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor

from sunfish.diffusion.process import add_noise
from sunfish.model.attention_mask import OPEN
from sunfish.model.denoiser import Prediction
from sunfish.model.pretrained import StoredDenoiser
from sunfish.model.score import Score
from sunfish.progress import Progress
from sunfish.sampling.onnx_backend import OnnxNetwork, graph_path, open_session, sampler_graph, step_graph
from sunfish.sampling.solvers import Given, Table, finish
from sunfish.sampling.torch_backend import TorchNetwork

MOST_ROWS, MOST_DRAWN_BYTES = 32, 2**28  # at a time
# a chance as near as this to where one token's share ends and the next one's begins is a near-tie: either is
# right
NEAR_DRAW = 1e-6


@dataclass(frozen=True, eq=False)
class Walk:
    """All that decides a walk's texts."""

    table: Table
    given: Given
    place: np.ndarray
    noise: np.ndarray  # (draws, batch, pos, emb)
    chance: np.ndarray  # (draws, batch, pos); the first one, of the start, is what a walk at once draws by
    temperature: float

    @classmethod
    def draw(cls, table: Table, num: int, length: int, emb: int, temperature: float, seed: int) -> Walk:
        """Draw `num` texts' noise and chance."""
        given, rng = Given.nothing(num, length), np.random.default_rng(seed)
        place = table.places(given.known, rng)
        shape = (table.num_draws, num, length)
        noise, chance = (
            rng.standard_normal((*shape, emb), dtype=np.float32),
            rng.random(shape, dtype=np.float32),
        )
        return cls(table, given, place, noise, chance, temperature)


Engine = Callable[[Walk], np.ndarray]  # -> ids


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return max |a - b| / max |a|."""
    return float(np.abs(ours - theirs).max() / np.abs(ours).max())


def call_error(stored: StoredDenoiser, session: ort.InferenceSession, rng: np.random.Generator) -> float:
    """Return the worst relative error of one call of the denoiser's graph, over shapes it was not exported
    with.

    It is asked what a walk asks: of noisy embeddings of tokens, some of them given, at any noise levels.
    Where little noise is said to be on what is nothing but noise the evidence is in thousands of nats for one
    token and nearly as many for another, and single precision does not tell which: torch is then no nearer to
    double precision than the graph is to torch."""
    denoiser, worst = stored.denoiser, 0.0
    for batch, length in ((1, 1), (1, stored.lengths.longest), (3, 5)):
        x_0 = denoiser.embed(
            torch.from_numpy(rng.integers(denoiser.vocab_size, size=(batch, length)))
        ).detach()
        noise, previous = rng.standard_normal((2, *x_0.shape), dtype=np.float32)
        level = rng.uniform(stored.law.logsnr[-1], stored.law.logsnr[0], (batch, length)).astype(np.float32)
        known, heat = rng.random((batch, length)) < 0.3, np.ones(batch, np.float32)
        x = np.where(known[..., None], x_0, add_noise(x_0, torch.from_numpy(noise), torch.from_numpy(level)))
        turn = np.where(
            known, rng.integers(length, size=known.shape), OPEN + rng.integers(2, size=known.shape)
        )
        with torch.no_grad():
            ours = denoiser(*map(torch.from_numpy, (x, level, previous, known, turn, heat)))
        told = {
            "x_t": x,
            "logsnr": level,
            "x_0_prev": previous,
            "known": known,
            "turn": turn,
            "temperature": heat,
        }
        for a, b in zip(ours, session.run(["x_0_hat", "logits"], told), strict=True):
            worst = max(worst, relative_error(a.numpy(), b))
    return worst


def score_error(stored: StoredDenoiser, session: ort.InferenceSession, rng: np.random.Generator) -> float:
    """Return the relative error of a text's nats, by the score's graph."""
    ids = rng.integers(stored.denoiser.vocab_size, size=(3, stored.lengths.longest))
    with torch.no_grad():
        return relative_error(
            Score(stored.denoiser)(torch.from_numpy(ids)).numpy(), session.run(["nats"], {"ids": ids})[0]
        )


def step_by_step(folder: Path) -> Engine:
    """Return ONNX Runtime on an exported folder's graph of a step, as the runtime uses it."""
    sessions = cache(lambda name: open_session(graph_path(folder, name), torch.get_num_threads()))

    def run(walk: Walk) -> np.ndarray:
        session = sessions(step_graph(walk.table))
        noise, chance = iter(walk.noise), iter(walk.chance)
        guess = sessions("guess") if walk.table.at_once and graph_path(folder, "guess").is_file() else None
        network = OnnxNetwork(session, lambda: next(noise), lambda: next(chance), walk.temperature, guess)
        return finish(walk.table, network, walk.given, walk.place)

    return run


def in_graph(folder: Path, program: str) -> Engine:
    """Return a program that runs ONNX on the whole sampler's graph: `onnxruntime`, `reference` (onnx's
    evaluator) or `openvino`.
    """
    load = {"onnxruntime": _with_onnxruntime, "reference": _with_reference, "openvino": _with_openvino}[
        program
    ]
    calls = cache(lambda name: load(graph_path(folder, name)))

    def run(walk: Walk) -> np.ndarray:
        told = {"noise": walk.noise, "chance": walk.chance, "table": walk.table.rows().astype(np.float32)}
        told |= {
            "steps": np.array(len(walk.table)),
            "place": walk.place,
            "ids": walk.given.ids,
            "known": walk.given.known,
        }
        return calls(sampler_graph(walk.table))(
            {**told, "temperature": np.full(len(walk.given.ids), walk.temperature, np.float32)}
        )

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
    return lambda told: np.asarray(compiled(told, share_inputs=False)[0])


def has_openvino() -> bool:
    """Say whether OpenVINO is installed: it is in the development layer only."""
    return importlib.util.find_spec("openvino") is not None


def hold_against_torch(
    stored: StoredDenoiser,
    engines: dict[str, Engine],
    name: str,
    table: Table,
    num: int,
    tie_margin: float,
    temperature: float = 1.0,
) -> list[dict[str, Any]]:
    """Return, for each engine, how many of `num` texts' ids differ from torch's after a walk on the same
    noise.

    An id that differs where torch's best two logits are closer than `tie_margin` at the end is a near-tie and
    counted apart; where tokens are drawn, all of a text in which some chance fell as near as `NEAR_DRAW` to
    another token's share."""
    length, emb = stored.lengths.longest, stored.denoiser.section.emb_dim
    rows = max(1, min(MOST_ROWS, MOST_DRAWN_BYTES // (4 * (1 + len(table)) * length * emb)))
    counts = {engine: np.zeros(2, int) for engine in engines}
    with Progress(f"parity, {name} {len(table)}", num, "texts") as progress:
        for start in range(0, num, rows):
            walk = Walk.draw(table, min(rows, num - start), length, emb, temperature, start)
            ours, tie = _with_torch(stored, walk, tie_margin)
            for engine, run in engines.items():
                unequal = run(walk) != ours
                counts[engine] += ((unequal & ~tie).sum(), (unequal & tie).sum())
            progress.add(len(ours))
    walked = {
        "sampler": name,
        "steps": len(table),
        "rows_a_position": len(table.logsnr),
        "texts": num,
        "ids": num * length,
    }
    return [
        {"engine": engine, **walked, "different_ids": int(different), "near_ties": int(ties)}
        for engine, (different, ties) in counts.items()
    ]


@torch.no_grad()
def _with_torch(stored: StoredDenoiser, walk: Walk, tie_margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids that torch comes to, and where it might as well have come to others, both (batch,
    pos).
    """
    network = _Watched(stored, walk)
    with network.watching(), stored.denoiser.held():
        ids = finish(walk.table, network, walk.given, walk.place)
    if walk.table.drawn:
        return ids, np.broadcast_to((network.nearest < NEAR_DRAW)[:, None], ids.shape)
    best = network.logits.topk(2).values.numpy()
    return ids, best[..., 0] - best[..., 1] < tie_margin


class _Watched(TorchNetwork):
    """A walk with torch on given noise and chance, which keeps the last logits and how near each text's
    chances came to another token.
    """

    logits: Tensor

    def __init__(self, stored: StoredDenoiser, walk: Walk) -> None:
        super().__init__(stored.denoiser, np.random.default_rng(0), walk.temperature)
        self.noises, self.chances = iter(walk.noise), iter(walk.chance)
        self.drawn, self.floor, self.nearest = (
            walk.table.drawn,
            walk.table.floor,
            np.full(len(walk.given.ids), np.inf),
        )

    def _noise(self) -> Tensor:
        return torch.from_numpy(next(self.noises))

    def _chance(self) -> Tensor:
        self.chance = torch.from_numpy(next(self.chances))
        return self.chance

    def step(self, left: int) -> None:
        undecided = ~self.state.known
        super().step(left)
        if self.drawn:
            counts = undecided & (
                (self.state.age > 0) | self.state.known
            )  # what waits draws for nothing unless it settles
            near = _distance(self.logits.softmax(dim=-1), self.chance[self.asked], self.floor)
            nearest, asked = (
                near.masked_fill(~counts[self.asked], torch.inf).amin(dim=-1).numpy(),
                self.asked.numpy(),
            )
            self.nearest[asked] = np.minimum(self.nearest[asked], nearest)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside the block, `logits` are those of the denoiser's last call."""
        handle, plain = (
            self.denoiser.register_forward_hook(lambda _, __, prediction: self._keep(prediction)),
            self.denoiser.predict_blocks,
        )
        self.denoiser.predict_blocks = lambda *told, **named: self._keep(plain(*told, **named))  # type: ignore[method-assign]
        try:
            yield
        finally:
            handle.remove()
            del self.denoiser.predict_blocks

    def _keep(self, prediction: Prediction) -> Prediction:
        self.logits = prediction.logits
        return prediction


def _distance(probabilities: Tensor, chance: Tensor, floor: float) -> Tensor:
    """Return how near a chance fell to where one token's share ends and the next one's begins, or a token to
    having a share at all.
    """
    kept = torch.where(
        (probabilities >= floor) | (probabilities == probabilities.amax(dim=-1, keepdim=True)),
        probabilities,
        0.0,
    )
    shares = kept.cumsum(dim=-1) / kept.sum(dim=-1, keepdim=True)
    between = (shares - chance[..., None]).abs().amin(dim=-1)
    return torch.minimum(between, (probabilities - floor).abs().amin(dim=-1)) if floor else between
