"""`distill`: how a walk's guess is learned, and at how many calls it is measured."""

from __future__ import annotations

from dataclasses import dataclass

from sunfish.problems import require
from sunfish.sampler import MAX_STEPS


@dataclass(frozen=True, kw_only=True)
class Section:
    """One distillation; its rows, rates and known positions are those of the training, but for what stands here."""

    seed: int
    steps: int
    batch_rows: int  # per step, over all devices
    turns: int  # of guess and call that each text is walked for; each guess is learned from
    rate: float  # share of pretrain's learning rates
    ema_decay: float
    measured_steps: tuple[int, ...]  # calls at most, with and without the guess
    samples: int  # at each of them

    def __post_init__(self) -> None:
        for key in ("steps", "batch_rows", "turns", "samples"):
            require(getattr(self, key) > 0, key, "must be at least 1")
        require(self.rate > 0.0, "rate", "must be above 0")
        require(0.0 <= self.ema_decay < 1.0, "ema_decay", "must lie between 0 and 1, 1 excluded")
        in_range = bool(self.measured_steps) and all(1 <= steps <= MAX_STEPS for steps in self.measured_steps)
        require(in_range, "measured_steps", f"must all lie between 1 and {MAX_STEPS:,}; one at least")
