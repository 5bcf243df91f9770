"""`evaluate`: how much is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sunfish.errors import require
from sunfish.sampling.solvers import MAX_STEPS, SAMPLERS
from sunfish.stagger import ORDERS


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Held-out rows for the bound, samples for quality, runs for speed."""

    seed: int
    judge: (
        str | None
    )  # the language model of generative perplexity and MAUVE: a twin's folder, or a causal model of the Hub
    bound_rows: int
    bound_levels: int  # noise levels per row
    num_samples: int
    sampler: Literal["ddim", "ddpm", "ancestral", "dpm-solver", "picard"]
    num_steps: int
    eta: float
    temperature: float  # of every estimate: below 1 sharpens
    floor: float  # tokens less probable than this are never drawn; 0: any may be
    settle: float  # a position keeps its token above this probability; 1: none does before its end
    order: Literal["forward", "random"]  # in which positions are denoised
    window_steps: (
        int  # steps that each position takes, others before and after it; num_steps or more: all at once
    )
    bound_together: (
        int | None
    )  # positions denoised at once for the bound: any number gives one, few a lower one; null: all
    frontier_steps: tuple[int, ...]
    frontier_windows: tuple[int, ...]  # of window_steps, with the ancestral sampler
    frontier_temperatures: tuple[float, ...]
    frontier_samples: int  # at each of them
    infill_rows: int
    infill_candidates: (
        int  # fillings of a gap, of which the likeliest is taken; 1 where next tokens were not learned
    )
    batch_rows: int
    speed_runs: int
    shown_samples: int

    def __post_init__(self) -> None:
        require(self.judge != "", "judge", "must be a folder or a name, or null for none")
        require(self.sampler in SAMPLERS, "sampler", f"must be one of {', '.join(SAMPLERS)}")
        for key in (
            "bound_rows",
            "bound_levels",
            "num_samples",
            "frontier_samples",
            "infill_rows",
            "infill_candidates",
            "batch_rows",
            "speed_runs",
            "shown_samples",
        ):
            require(getattr(self, key) > 0, key, "must be at least 1")
        require(1 <= self.num_steps <= MAX_STEPS, "num_steps", f"must lie between 1 and {MAX_STEPS:,}")
        require(0.0 <= self.eta <= 1.0, "eta", "must lie between 0 (deterministic) and 1 (ancestral)")
        require(0.0 < self.settle <= 1.0, "settle", "must lie above 0 and be at most 1 (1: never)")
        require(0.0 <= self.floor < 1.0, "floor", "must be at least 0 (any token may be drawn) and below 1")
        require(self.order in ORDERS, "order", f"must be one of {', '.join(ORDERS)}")
        require(self.window_steps >= 1, "window_steps", "must be at least 1")
        require(
            self.bound_together is None or self.bound_together >= 1,
            "bound_together",
            "must be at least 1, or null for all at once",
        )
        require(self.temperature > 0.0, "temperature", "must be above 0")
        require(
            all(1 <= n <= MAX_STEPS for n in self.frontier_steps),
            "frontier_steps",
            f"must all lie between 1 and {MAX_STEPS:,}",
        )
        require(all(n >= 1 for n in self.frontier_windows), "frontier_windows", "must all be at least 1")
        require(
            all(heat > 0.0 for heat in self.frontier_temperatures),
            "frontier_temperatures",
            "must all be above 0",
        )
