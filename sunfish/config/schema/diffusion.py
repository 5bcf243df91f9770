"""`diffusion`: what is learned, and with which conditioning."""

from __future__ import annotations

from dataclasses import dataclass

from sunfish.diffusion.objectives import OBJECTIVES
from sunfish.errors import NOT_NEGATIVE, SHARE, require, require_each


@dataclass(frozen=True, kw_only=True)
class KnownConfig:
    """Known positions in training rows: they hold clean embeddings and get no loss."""

    conditioned_fraction: float  # of the rows; the others are all unknown
    prefix: float  # weight of rows whose beginning is known
    suffix: float  # weight of rows whose end is known
    span: float  # weight of rows in which all but one gap is known
    scattered: float  # weight of rows in which each position is known with one probability, drawn per row
    pure_noise_fraction: float  # of the conditioned rows: t = 1 wherever nothing is known

    def __post_init__(self) -> None:
        require_each(self, SHARE, "conditioned_fraction", "pure_noise_fraction")
        weights = (self.prefix, self.suffix, self.span, self.scattered)
        are_weights = min(weights) >= 0 and sum(weights) > 0
        require(are_weights, "prefix", "suffix, span and scattered are weights: none below 0, one above")


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """The objective of the denoising pass, and the weight of the causal pass that learns to check."""

    objective: str
    check_weight: float  # of the next-token cross-entropy of the clean row under a causal mask; 0: no check
    self_conditioning: float  # fraction of the rows that see the denoiser's own first estimate
    known: KnownConfig

    def __post_init__(self) -> None:
        require(self.objective in OBJECTIVES, "objective", f"must be one of {', '.join(OBJECTIVES)}")
        require_each(self, NOT_NEGATIVE, "check_weight")
        require_each(self, SHARE, "self_conditioning")
        can_check = self.check_weight == 0.0 or OBJECTIVES[self.objective].trains_embeddings
        reason = f"must be 0 under {self.objective}, which keeps the embeddings frozen"
        require(can_check, "check_weight", reason)
