"""`export`: the graph and how closely it is held against torch."""

from __future__ import annotations

from dataclasses import dataclass

from sunfish.problems import require


@dataclass(frozen=True, kw_only=True)
class Section:
    """What the exported folder is written with, checked against, and what it samples with unless told otherwise."""

    opset: int
    parity_samples: int
    parity_steps: int
    tie_margin: float  # logits closer than this are a near-tie: either id is right
    max_relative_error: float
    sampler_steps: int
    sampler_eta: float
    sampler_temperature: float
    sampler_settle: float  # a position keeps its token above this probability; 1: none does before the end

    def __post_init__(self) -> None:
        require(18 <= self.opset <= 20, "opset", "must be 18, 19 or 20: newer attention nodes are slow or unknown elsewhere")
        require(self.parity_samples > 0, "parity_samples", "must be at least 1")
        require(self.parity_steps >= 2, "parity_steps", "must be at least 2")
        require(self.tie_margin > 0, "tie_margin", "must be above 0")
        require(self.max_relative_error > 0, "max_relative_error", "must be above 0")
        require(self.sampler_steps >= 2, "sampler_steps", "must be at least 2")
        require(self.sampler_temperature > 0.0, "sampler_temperature", "must be above 0")
        require(0.0 < self.sampler_settle <= 1.0, "sampler_settle", "must lie above 0 and be at most 1 (1: never)")
        require(0.0 <= self.sampler_eta <= 1.0, "sampler_eta", "must lie between 0 and 1")
