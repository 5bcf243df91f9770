"""How long one text takes by itself, with the founding samplers: DDPM 1000, DDIM 50 and DDIM 10."""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch

from sunfish.config.schema.sampler import SamplerConfig
from sunfish.evaluation.context import EvalContext, Numbers
from sunfish.progress import track
from sunfish.sampling.loop import Conditioning
from sunfish.sampling.torch_backend import sample_texts

LONG = 500  # steps, from which one run is timed


def measure_speed(context: EvalContext, samplers: dict[str, SamplerConfig]) -> dict[str, Numbers]:
    """Time one text of the longest row, batch 1: the median of `speed_runs` after a warm-up."""
    _sample_one(context, next(iter(samplers.values())), 0)
    shown = track(samplers.items(), "speed", "samplers", len(samplers))
    return {name: time_one(context, sampler) for name, sampler in shown}


def time_one(context: EvalContext, sampler: SamplerConfig) -> Numbers:
    """Return the median seconds of one text, and its positions per second."""
    runs = context.config.speed_runs if sampler.steps < LONG else 1
    seconds = statistics.median(_sample_one(context, sampler, run) for run in range(runs))
    length = context.stored.lengths.longest
    return {"seconds": seconds, "tokens_per_second": length / seconds, "length": length, "runs": runs}


def _sample_one(context: EvalContext, sampler: SamplerConfig, seed: int) -> float:
    nothing = Conditioning.nothing(1, context.stored.lengths.longest)
    started = time.perf_counter()
    sample_texts(context.stored.denoiser, context.plan(sampler), nothing, np.random.default_rng(seed))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started
