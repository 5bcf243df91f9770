"""`diffusion`: the process, its noise law and what is minimised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sunfish.errors import require
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
        require(
            min(weights) >= 0 and sum(weights) > 0,
            "prefix",
            "span and scattered are weights: none below 0, one above",
        )


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Rows trained in two copies: a clean one, and, of some of them, a noisy one in blocks that each see the
    clean text before them.
    """

    order: Literal["forward", "random"]
    size_max: int  # positions denoised together, from 1 on, drawn per row, evenly in its logarithm
    one_clock: (
        float  # share of the blocks whose positions are denoised at once; in the others one after another
    )
    blind_share: float  # of the blocks, how many show noise alone
    # of the clean words, how many are told to the position behind them, in a model that is
    # (`model.told_before`)
    told_share: float
    noisy_share: float  # of the rows, how many have a noisy copy; the others are clean alone and cost half
    next_token: (
        float  # weight of the clean copy's own loss: at each of its positions, the token that comes next
    )

    def __post_init__(self) -> None:
        require(self.order in ORDERS, "order", f"must be one of {', '.join(ORDERS)}")
        require(self.size_max >= 1, "size_max", "must be at least 1")
        for key in ("one_clock", "blind_share", "told_share"):
            require(0.0 <= getattr(self, key) <= 1.0, key, "must lie between 0 and 1")
        require(
            0.0 < self.noisy_share <= 1.0,
            "noisy_share",
            "must lie above 0 and be at most 1: something must be denoised",
        )
        require(self.next_token >= 0.0, "next_token", "must not be negative")
        learns = self.noisy_share == 1.0 or self.next_token > 0.0
        require(
            learns,
            "next_token",
            "must be above 0 with a noisy_share below 1: it is all that clean rows are asked",
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
        require(
            self.logsnr_min < self.logsnr_max, "logsnr_min", f"must lie below logsnr_max = {self.logsnr_max}"
        )
        require(self.num_bins >= 10, "num_bins", "must be at least 10")
        require(0.0 < self.memory < 1.0, "memory", "must lie between 0 and 1, both excluded")
        require(0.0 < self.floor <= 1.0, "floor", "must lie above 0 and at most at 1")
        require(self.refit_every > 0, "refit_every", "must be at least 1")


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """What is learned, at which noise levels, with which help."""

    objective: Literal["ce", "elbo", "eps_mse", "x0_mse"]
    law: Law
    blocks: Blocks | None  # null: all positions at once, in one copy
    self_conditioning: float  # share of rows that see their own first estimate in training
    known: Known

    @property
    def copies(self) -> float:
        """Return how often a row stands in a training step, in the mean."""
        return 1.0 if self.blocks is None else 1.0 + self.blocks.noisy_share

    def __post_init__(self) -> None:
        require(0.0 <= self.self_conditioning <= 1.0, "self_conditioning", "must lie between 0 and 1")
        all_noisy = self.objective == "ce" or self.blocks is None or self.blocks.noisy_share == 1.0
        require(
            all_noisy,
            "blocks",
            f"must have a noisy_share of 1 under {self.objective}: clean rows learn under ce alone",
        )
