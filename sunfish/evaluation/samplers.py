"""Other samplers beside the configured one: the founding ones, and its own at other numbers of steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from sunfish.config.schema.sampler import SamplerConfig
from sunfish.evaluation.context import EvalContext, Numbers, Texts, name_of
from sunfish.evaluation.metrics import measure

USUAL_STEPS = 64  # a sampler with more steps writes fewer texts
MANY_STEPS = 256  # from which all texts have the median length: few texts of many lengths would take too long
STEP_FACTORS = (0.5, 1.0, 2.0, 4.0)
FOUNDING = (("ddpm", 1000), ("ddim", 50), ("ddim", 10))
KEPT_ABOVE = 0.9  # [MaskGIT]'s kept tokens, in the founding sampler of 64 steps


def founding_samplers(context: EvalContext) -> dict[str, SamplerConfig]:
    """Return DDPM 1000, DDIM 50 and DDIM 10 by name, all positions at once and unchecked."""
    return named(plain(context, name, steps) for name, steps in FOUNDING)


def compared_samplers(context: EvalContext) -> dict[str, SamplerConfig]:
    """Return the founding samplers and DDPM 64 that keeps tokens early."""
    kept = dataclasses.replace(plain(context, "ddpm", 64), confidence_threshold=KEPT_ABOVE)
    return named([kept]) | founding_samplers(context)


def plain(context: EvalContext, name: str, steps: int) -> SamplerConfig:
    """Return an unchecked deterministic or ancestral sampler at the configured temperature."""
    return dataclasses.replace(
        context.draft_sampler, name=name, steps=steps, eta=0.0, churn=0.0, confidence_threshold=1.0,
        epsilon_cutoff=0.0,
    )  # fmt: skip


def named(samplers: Iterable[SamplerConfig]) -> dict[str, SamplerConfig]:
    """Return samplers by their short names."""
    return {name_of(sampler): sampler for sampler in samplers}


def measure_samplers(
    context: EvalContext, samplers: dict[str, SamplerConfig], known: dict[str, Numbers]
) -> dict[str, Numbers]:
    """Return the metrics of each sampler's texts; those that are `known` are not sampled again."""
    return {
        name: known[name] if name in known else measure(write_few(context, sampler), context)
        for name, sampler in samplers.items()
    }


def write_few(context: EvalContext, sampler: SamplerConfig) -> Texts:
    """Sample the texts of a comparison."""
    num = affordable(context.config.compared_samples, sampler)
    median = np.full(num, context.stored.lengths.median)
    return context.write_texts(sampler, num, 1, median if sampler.steps >= MANY_STEPS else None)


def affordable(num: int, sampler: SamplerConfig) -> int:
    """Return `num`, or as many texts as take the same number of calls at the usual steps."""
    return max(1, min(num, num * USUAL_STEPS // sampler.steps))


def by_steps(sampler: SamplerConfig) -> dict[str, SamplerConfig]:
    """Return the sampler at fewer and more steps of its (first) draft, at most a few hundred."""
    counts = {max(1, round(factor * sampler.steps)) for factor in STEP_FACTORS}
    few = {steps for steps in counts if steps <= MANY_STEPS} | {sampler.steps}
    return named(dataclasses.replace(sampler, steps=steps) for steps in sorted(few))
