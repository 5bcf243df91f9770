"""`diffusion`: the process, its noise law and what is minimised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sunfish.problems import require
from sunfish.stagger import ORDERS


@dataclass(frozen=True, kw_only=True)
class Known:
    """Rows trained with positions that are given: how many of them, and which kinds of gaps, by weight."""

    row_share: float
    prefix: float  # a beginning is given
    span: float  # all but one gap is given
    scattered: float  # each position is given with one probability, drawn per row
    blind_share: float  # of these rows, how many show noise alone (t = 1) where nothing is given

    def __post_init__(self) -> None:
        require(0.0 <= self.row_share <= 1.0, "row_share", "must lie between 0 and 1")
        require(0.0 <= self.blind_share <= 1.0, "blind_share", "must lie between 0 and 1")
        weights = (self.prefix, self.span, self.scattered)
        require(min(weights) >= 0 and sum(weights) > 0, "prefix", "span and scattered are weights: none below 0, one above")


@dataclass(frozen=True, kw_only=True)
class Stagger:
    """Rows trained with positions that are denoised one after another, each by a clock of its own."""

    row_share: float  # the others are denoised all at once
    order: Literal["forward", "random"]
    window_min: float  # share of a walk that one position takes, drawn per row, evenly in its logarithm
    window_max: float

    def __post_init__(self) -> None:
        require(0.0 <= self.row_share <= 1.0, "row_share", "must lie between 0 and 1")
        require(self.order in ORDERS, "order", f"must be one of {', '.join(ORDERS)}")
        require(
            0.0 < self.window_min <= self.window_max <= 1.0, "window_min", "must lie above 0, and at most at window_max, itself at most 1"
        )


@dataclass(frozen=True, kw_only=True)
class Law:
    """The noise law: fixed, or following the loss."""

    kind: Literal["learned", "linear-beta", "cosine"]
    logsnr_min: float  # nats; linear-beta has its own ends
    logsnr_max: float
    num_bins: int  # of the learned law's histogram
    memory: float  # weight that an old observation keeps per new one in its bin
    floor: float  # share of the learned law that stays even
    refit_every: int  # steps

    def __post_init__(self) -> None:
        require(self.logsnr_min < self.logsnr_max, "logsnr_min", f"must lie below logsnr_max = {self.logsnr_max}")
        require(self.num_bins >= 10, "num_bins", "must be at least 10")
        require(0.0 < self.memory < 1.0, "memory", "must lie between 0 and 1, both excluded")
        require(0.0 < self.floor <= 1.0, "floor", "must lie above 0 and at most at 1")
        require(self.refit_every > 0, "refit_every", "must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Section:
    """What is learned, at which noise levels, with which help."""

    objective: Literal["ce", "elbo", "eps_mse", "x0_mse"]
    law: Law
    stagger: Stagger
    self_conditioning: float  # share of rows that see their own first estimate in training
    known: Known

    def __post_init__(self) -> None:
        require(0.0 <= self.self_conditioning <= 1.0, "self_conditioning", "must lie between 0 and 1")
