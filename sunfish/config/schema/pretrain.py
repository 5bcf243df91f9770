"""`pretrain`: how long, how fast, how careful."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sunfish.errors import ABOVE_0, AT_LEAST_1, NOT_NEGATIVE, SHARE, require, require_each


@dataclass(frozen=True, kw_only=True)
class Optim:
    """Muon on the blocks' matrices, AdamW on the rest; both rates follow warm-up, plateau and cosine."""

    muon_lr: float | None  # null: AdamW on all
    adamw_lr: float
    weight_decay: float
    beta1: float
    beta2: float
    warmup_steps: int
    decay_share: float  # of the steps, at the end, in which the rates fall; 1: right after the warm-up
    final_lr_share: float  # of the peak, at the end of the cosine
    clip_norm: float

    def __post_init__(self) -> None:
        require(self.muon_lr is None or self.muon_lr > 0, "muon_lr", "must be above 0, or null: AdamW on all")
        require_each(self, ABOVE_0, "adamw_lr", "clip_norm")
        for key in ("beta1", "beta2"):
            require(0.0 <= getattr(self, key) < 1.0, key, "must lie between 0 and 1, 1 excluded")
        require_each(self, NOT_NEGATIVE, "weight_decay", "warmup_steps")
        require(0.0 < self.decay_share <= 1.0, "decay_share", "must lie above 0 and at most at 1")
        require_each(self, SHARE, "final_lr_share")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One pretraining run. A step's batch is the same however many devices and micro-batches share it."""

    seed: int
    steps: int
    batch_rows: int  # per step, over all devices
    micro_rows: int  # at once on one device; gradients accumulate over batch_rows / micro_rows
    # selective keeps products, full keeps each block's input only
    activation_checkpointing: Literal["none", "selective", "full"]
    optim: Optim
    ema_decay: float
    log_every: int
    sample_every: int
    checkpoint_every: int
    keep_checkpoints: int
    max_skipped: int  # steps in a row whose loss or gradient is not finite
    extends: str | None  # a finished run in runs/ to carry on from, same configuration but for more steps

    def __post_init__(self) -> None:
        require_each(self, AT_LEAST_1, "steps", "batch_rows", "micro_rows", "log_every", "sample_every")
        require_each(self, AT_LEAST_1, "checkpoint_every", "keep_checkpoints", "max_skipped")
        divides = self.batch_rows % self.micro_rows == 0
        require(divides, "micro_rows", f"must divide batch_rows = {self.batch_rows}")
        require(0.0 <= self.ema_decay < 1.0, "ema_decay", "must lie between 0 and 1, 1 excluded")
        warmup = self.optim.warmup_steps
        reason = f"must be more than the warm-up, pretrain.optim.warmup_steps = {warmup}"
        require(warmup < self.steps, "steps", reason)
