"""Hold the exported graphs against torch: one call, and whole texts on shared noise, by several programs
that run ONNX.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from onnx.reference import ReferenceEvaluator

from sunfish.config.schema.sampler import SamplerConfig
from sunfish.diffusion.process import add_noise
from sunfish.diffusion.schedule import NoiseSchedule
from sunfish.export.watched import WatchedBackend
from sunfish.model.pretrained import StoredDenoiser
from sunfish.progress import Progress
from sunfish.sampling.loop import Conditioning, Sampled, SamplerPlan, sample
from sunfish.sampling.noise import DrawNoise
from sunfish.sampling.onnx_backend import (
    OnnxBackend,
    OpenGraph,
    graph_path,
    open_session,
    plan_rows,
    plan_scalars,
)

MOST_ROWS, MOST_DRAWN_BYTES = 32, 2**28  # at a time
FOUNDING = (("ddim", 50), ("dpmpp-2m", 10), ("ddpm", 1000))  # name, steps


@dataclass(frozen=True, eq=False)
class Trial:
    """All that decides some texts."""

    plan: SamplerPlan
    conditioning: Conditioning
    noise: np.ndarray  # (draws, batch, pos, emb)
    uniforms: np.ndarray  # (draws, batch, pos); a text's k-th call that draws takes the k-th

    @classmethod
    def draw(cls, plan: SamplerPlan, conditioning: Conditioning, emb: int, seed: int) -> Trial:
        """Draw as much as the texts may need."""
        shape = (num_draws(plan, conditioning.ids.shape[1]), *conditioning.ids.shape)
        rng = np.random.default_rng(seed)
        noise = rng.standard_normal((*shape, emb), dtype=np.float32)
        return cls(plan, conditioning, noise, rng.random(shape, dtype=np.float32))

    def source(self) -> DrawNoise:
        """Return the draws, each text's in turn."""
        drawn = np.zeros(self.noise.shape[1], np.int64)

        def draw(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            turn = drawn[rows]
            drawn[rows] += 1
            return self.noise[turn, rows], self.uniforms[turn, rows]

        return draw

    def inputs(self) -> dict[str, np.ndarray]:
        """Return what the one-call graphs take."""
        ids, known = self.conditioning.ids, self.conditioning.known
        temperature = np.full(len(ids), self.plan.config.temperature, np.float32)
        scalars = {name: np.array(value, np.float32) for name, value in plan_scalars(self.plan).items()}
        rows = plan_rows(self.plan, ids.shape[1])
        shared = {"noise": self.noise, "uniforms": self.uniforms, "plan": rows, "ids": ids, "known": known}
        return {**shared, "temperature": temperature, **scalars}


Engine = Callable[[Trial], Sampled]


def num_draws(plan: SamplerPlan, length: int) -> int:
    """Return how often a text of `length` tokens draws noise at most."""
    return 1 + int(plan_rows(plan, length)[:, -1].sum())


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return max |a - b| / max |a|."""
    return float(np.abs(ours - theirs).max() / np.abs(ours).max())


def call_error(stored: StoredDenoiser, session: ort.InferenceSession, rng: np.random.Generator) -> float:
    """Return the worst relative error of one call of the denoiser's graph, over shapes it was not exported
    with.

    It is asked what sampling asks: of noisy embeddings of tokens, some of them known, at any noise level."""
    worst = 0.0
    for batch, length in ((1, 1), (1, stored.lengths.longest), (3, 5)):
        inputs = _call_inputs(stored, batch, length, rng)
        with torch.no_grad():
            ours = stored.denoiser(*map(torch.from_numpy, inputs.values()))
        for a, b in zip(ours, session.run(["x_0_hat", "logits"], inputs), strict=True):
            worst = max(worst, relative_error(a.numpy(), b))
    return worst


def _call_inputs(
    stored: StoredDenoiser, batch: int, length: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    ids = torch.from_numpy(rng.integers(stored.denoiser.vocab_size, size=(batch, length)))
    x_0 = stored.denoiser.embed(ids).detach()
    noise, x_0_prev = rng.standard_normal((2, *x_0.shape), dtype=np.float32)
    logsnr = rng.uniform(stored.schedule.logsnr[-1], stored.schedule.logsnr[0], batch).astype(np.float32)
    known = rng.random((batch, length)) < 0.3
    noisy = add_noise(x_0, torch.from_numpy(noise), torch.from_numpy(logsnr))
    x_t = np.where(known[..., None], x_0, noisy)
    temperature = np.ones(batch, np.float32)
    return {"x_t": x_t, "logsnr": logsnr, "x_0_prev": x_0_prev, "known": known, "temperature": temperature}


def parity_plans(
    config: SamplerConfig, schedule: NoiseSchedule, texts: int, texts_ddpm: int
) -> list[tuple[str, SamplerPlan, int]]:
    """Return what is compared, the founding samplers and the configured one: name, plan, number of texts."""
    plain = replace(config, check=None)
    founding = replace(
        plain, eta=0.0, churn=0.0, temperature=1.0, confidence_threshold=1.0, epsilon_cutoff=0.0
    )
    trials = [
        (name, replace(founding, name=name, steps=steps), texts_ddpm if name == "ddpm" else texts)
        for name, steps in FOUNDING
    ]
    trials.append(("configured, without check" if config.check else "configured", plain, texts))
    if config.check is not None:
        trials.append(("configured", config, texts))
    return [(name, SamplerPlan.make(each, schedule), num) for name, each, num in trials if num > 0]


def step_by_step(open_graph: OpenGraph) -> Engine:
    """Return ONNX Runtime on an exported folder's step and check, as the runtime uses them."""
    return lambda trial: sample(
        trial.plan, OnnxBackend(open_graph, trial.source(), trial.plan), trial.conditioning
    )


def in_one_call(folder: Path, program: str) -> Engine:
    """Return a program that runs ONNX on a whole sampler's graph: `onnxruntime`, or `reference`, onnx's
    evaluator.
    """
    load = {"onnxruntime": _with_onnxruntime, "reference": _with_reference}[program]
    calls = cache(lambda name: load(graph_path(folder, name)))

    def run(trial: Trial) -> Sampled:
        name = "sampler" if trial.plan.config.check is None else "checked_sampler"
        return Sampled(*calls(name)(trial.inputs()))

    return run


Call = Callable[[dict[str, np.ndarray]], list[Any]]


def _with_onnxruntime(graph: Path) -> Call:
    session = open_session(graph, torch.get_num_threads())
    return lambda inputs: session.run(None, inputs)


def _with_reference(graph: Path) -> Call:
    evaluator = ReferenceEvaluator(str(graph))

    @np.errstate(divide="ignore", invalid="ignore")  # log p = -inf, which masks leave out
    def run(inputs: dict[str, np.ndarray]) -> list[Any]:
        return [np.asarray(output) for output in evaluator.run(None, inputs)]

    return run


def hold_against_torch(
    stored: StoredDenoiser, engines: dict[str, Engine], name: str, plan: SamplerPlan, num: int,
    tie_margin: float,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return, for each engine, how many of `num` texts' ids differ from torch's on the same noise.

    Ids that differ where a decision was a near-tie (`WatchedBackend`) are counted apart."""
    length, emb = stored.lengths.longest, stored.denoiser.config.emb_dim
    rows = max(1, min(MOST_ROWS, MOST_DRAWN_BYTES // (4 * num_draws(plan, length) * length * emb)))
    counts = {engine: np.zeros(2, int) for engine in engines}
    with Progress(f"parity, {name}", num, "texts") as progress:
        for start in range(0, num, rows):
            conditioning = Conditioning.nothing(min(rows, num - start), length)
            trial = Trial.draw(plan, conditioning, emb, start)
            ours, tie = sample_watched(stored, trial, tie_margin)
            for engine, run in engines.items():
                unequal = run(trial).ids != ours.ids
                counts[engine] += ((unequal & ~tie).sum(), (unequal & tie).sum())
            progress.add(len(ours.ids))
    about = {
        "sampler": name,
        "solver": plan.config.name,
        "steps": plan.config.steps,
        "texts": num,
        "ids": num * length,
    }
    return [
        {"engine": engine, **about, "different_ids": int(different), "near_ties": int(ties)}
        for engine, (different, ties) in counts.items()
    ]


@torch.no_grad()
def sample_watched(stored: StoredDenoiser, trial: Trial, tie_margin: float) -> tuple[Sampled, np.ndarray]:
    """Return the texts that torch comes to, and where it might as well have come to others, (batch, pos)."""
    backend = WatchedBackend(stored.denoiser, trial.source(), trial.plan, tie_margin)
    with stored.denoiser.cached_readout():
        return sample(trial.plan, backend, trial.conditioning), backend.ties
