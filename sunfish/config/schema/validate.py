"""`validate`: how hard the CPU gate looks."""

from __future__ import annotations

from dataclasses import dataclass

from sunfish.errors import ABOVE_0, AT_LEAST_1, require, require_each
from sunfish.sampling.solvers import MAX_STEPS


@dataclass(frozen=True, kw_only=True)
class ValidateConfig:
    """The gate's budget and bounds; a model above `max_parameters` is scaled down for it, saying so."""

    max_parameters: int
    max_row_length: int
    data_batches: int
    overfit_rows: int
    overfit_steps: int
    overfit_eps_mse: float  # the last loss must be below
    overfit_ce: float
    sample_steps: int
    mini_run_steps: int
    mini_run_rows: int

    def __post_init__(self) -> None:
        require_each(self, AT_LEAST_1, "max_parameters", "data_batches", "overfit_rows", "overfit_steps")
        require_each(self, AT_LEAST_1, "mini_run_steps", "mini_run_rows")
        require(self.max_row_length >= 8, "max_row_length", "must be at least 8")
        require(2 <= self.sample_steps <= MAX_STEPS, "sample_steps", f"must lie between 2 and {MAX_STEPS:,}")
        require_each(self, ABOVE_0, "overfit_eps_mse", "overfit_ce")
