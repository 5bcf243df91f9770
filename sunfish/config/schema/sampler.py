"""`sampler`: how texts are sampled, in evaluation, in an exported folder, and at the command line."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from sunfish.errors import AT_LEAST_1_OR_NULL, InvalidValue, require, require_each
from sunfish.sampling.solvers import MAX_STEPS, SAMPLERS


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Draft, check, correct, draft again: `sampling.loop`."""

    epsilon: float  # a token below exp(-entropy) epsilon^(1 + its deviation) is rejected, METHOD 5
    steps: int  # of each later draft
    restart_time: float  # noise level t to which later drafts go back; 1: pure noise
    max_rounds: int | None  # checks per text at most; null: one for each position

    def __post_init__(self) -> None:
        require(0.0 <= self.epsilon < 1.0, "epsilon", "must be at least 0 (no token is rejected) and below 1")
        require(1 <= self.steps <= MAX_STEPS, "steps", f"must lie between 1 and {MAX_STEPS:,}")
        restarts = 0.0 < self.restart_time <= 1.0
        require(restarts, "restart_time", "must lie above 0 and be at most 1 (pure noise)")
        require_each(self, AT_LEAST_1_OR_NULL, "max_rounds")


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """A solver, its steps, how probabilities become tokens, and whether the draft is checked."""

    name: str
    steps: int  # evaluations of the denoiser for a (first) draft
    eta: float  # of ddim: 0 deterministic ... 1 ancestral
    churn: float  # of churn: the factor by which each step raises the noise, less 1
    temperature: float  # of the denoiser's and the check's distributions: below 1 sharpens
    confidence_threshold: float  # a position keeps its token once it is surer; 1: none does before the end
    epsilon_cutoff: float  # of ddpm-categorical: less probable tokens are never drawn; 0: any may be
    check: CheckConfig | None  # null: the draft is the text
    gap_check: CheckConfig | None = None  # where given text follows a gap; null: as `check`

    def __post_init__(self) -> None:
        require(self.name in SAMPLERS, "name", f"must be one of {', '.join(SAMPLERS)}")
        require(1 <= self.steps <= MAX_STEPS, "steps", f"must lie between 1 and {MAX_STEPS:,}")
        require(0.0 <= self.eta <= 1.0, "eta", "must lie between 0 (deterministic) and 1 (ancestral)")
        require(0.0 <= self.churn <= 10.0, "churn", "must lie between 0 and 10")
        require(0.0 < self.temperature < math.inf, "temperature", "must be a number above 0")
        reason = "must lie above 0 and be at most 1 (1: no position is kept early)"
        require(0.0 < self.confidence_threshold <= 1.0, "confidence_threshold", reason)
        require(0.0 <= self.epsilon_cutoff < 1.0, "epsilon_cutoff", "must be at least 0 and below 1")

    def for_gaps(self) -> SamplerConfig:
        """Return the sampler of texts in which given tokens follow unknown ones.

        Their check has to reject less: a word that is rare by itself may be the one that what follows needs.
        """
        return dataclasses.replace(self, check=self.check and (self.gap_check or self.check))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; `from_dict` reads them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SamplerConfig:
        """Rebuild a configuration from `to_dict`.

        Raises:
            InvalidValue: a key is missing, unknown or impossible.
        """
        try:
            checks = {key: values[key] and CheckConfig(**values[key]) for key in ("check", "gap_check")}
            return cls(**{**values, **checks})
        except (KeyError, TypeError) as error:
            raise InvalidValue("sampler", f"is incomplete or of another version ({error})") from error
