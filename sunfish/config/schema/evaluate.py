"""`evaluate`: how much is measured. How texts are sampled is `sampler`."""

from __future__ import annotations

from dataclasses import dataclass

from sunfish.errors import AT_LEAST_1, require, require_each


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Held-out rows for the bound, samples for quality, runs for speed."""

    seed: int
    # language model of generative perplexity and MAUVE: a baseline's folder, or a model of the Hub
    judge: str | None
    bound_rows: int
    bound_levels: int  # noise levels per row
    num_samples: int  # by the configured sampler, and by its draft alone
    compared_samples: int  # by each other sampler in the tables
    infill_rows: int
    batch_rows: int
    speed_runs: int
    shown_samples: int

    def __post_init__(self) -> None:
        require(self.judge != "", "judge", "must be a folder or a name, or null for none")
        require_each(self, AT_LEAST_1, "bound_rows", "bound_levels", "num_samples", "compared_samples")
        require_each(self, AT_LEAST_1, "infill_rows", "batch_rows", "speed_runs", "shown_samples")
