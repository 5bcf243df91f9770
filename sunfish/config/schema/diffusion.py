"""`diffusion`: what is learned, and with which conditioning."""

from __future__ import annotations

from dataclasses import dataclass

from sunfish.diffusion.objectives import OBJECTIVES
from sunfish.errors import require


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
        for key in ("conditioned_fraction", "pure_noise_fraction"):
            require(0.0 <= getattr(self, key) <= 1.0, key, "must lie between 0 and 1")
        weights = (self.prefix, self.suffix, self.span, self.scattered)
        require(
            min(weights) >= 0 and sum(weights) > 0,
            "prefix",
            "suffix, span and scattered are weights: none below 0, one above",
        )


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """The objective of the denoising pass, and the weight of the causal pass that learns to check."""

    objective: str
    check_weight: float  # of the next-token cross-entropy of the clean row under a causal mask; 0: no check
    self_conditioning: float  # fraction of the rows that see the denoiser's own first estimate
    known: KnownConfig

    def __post_init__(self) -> None:
        require(self.objective in OBJECTIVES, "objective", f"must be one of {', '.join(OBJECTIVES)}")
        require(self.check_weight >= 0.0, "check_weight", "must not be negative")
        require(0.0 <= self.self_conditioning <= 1.0, "self_conditioning", "must lie between 0 and 1")
        frozen = not OBJECTIVES[self.objective].trains_embeddings
        require(
            self.check_weight == 0.0 or not frozen, "check_weight",
            f"must be 0 under {self.objective}, which keeps the embeddings frozen",
        )  # fmt: skip
