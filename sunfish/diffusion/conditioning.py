"""What is random in one training step: noise levels, known positions, self-conditioned rows.

All of it follows from (seed, step) and is drawn for the whole batch. So a resumed run, and any number of
processes, draw the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sunfish.diffusion.schedule import Array, draw_times

if TYPE_CHECKING:
    from sunfish.config.schema.diffusion import DiffusionConfig, KnownConfig


class StepRandomness(NamedTuple):
    """One step's draws for all rows of the batch, or for the part of them from `first_row` on."""

    times: Array  # (rows,) in [0, 1]; 1 is pure noise
    known: np.ndarray  # bool, (rows, pos)
    self_conditioned: np.ndarray  # bool, (rows,)
    noise_seed: int  # of the whole batch's noise
    batch_rows: int
    first_row: int = 0

    def part(self, rows: slice) -> StepRandomness:
        """Return the draws of some of these rows."""
        theirs = {name: getattr(self, name)[rows] for name in ("times", "known", "self_conditioned")}
        return self._replace(**theirs, first_row=self.first_row + rows.start)

    @property
    def is_intermediate(self) -> np.ndarray:
        """Say which rows were drawn from the schedule, and are not pure noise by choice, (rows,)."""
        return self.times < 1.0

    @property
    def is_unconditional(self) -> np.ndarray:
        """Say which rows have no known position, (rows,)."""
        return np.asarray(~self.known.any(axis=1))


def draw_randomness(
    config: DiffusionConfig, seed: int, step: int, batch_rows: int, row_length: int
) -> StepRandomness:
    """Draw one step.

    Times have low discrepancy over the batch and come in random order. So evenly spaced rows are as good as
    any for self-conditioning, and each process has its share."""
    rng = np.random.default_rng((seed, step))
    known = draw_known(config.known, batch_rows, row_length, rng)
    pure_noise = known.any(axis=1) & (rng.random(batch_rows) < config.known.pure_noise_fraction)
    times = np.where(pure_noise, 1.0, draw_times(batch_rows, rng))
    self_conditioned = evenly_spaced(batch_rows, config.self_conditioning)
    return StepRandomness(times, known, self_conditioned, int(rng.integers(2**62)), batch_rows)


def evenly_spaced(num: int, fraction: float) -> np.ndarray:
    """Choose a fraction of `num` rows, evenly spaced from the first one on; bool, (num,)."""
    return np.diff(np.ceil(np.arange(num + 1) * fraction - 1e-9)) > 0


def draw_known(config: KnownConfig, num_rows: int, row_length: int, rng: np.random.Generator) -> np.ndarray:
    """Return which positions are known, bool, (rows, pos): none, a prefix, a suffix, all but a span, or
    scattered ones.

    The share that is known is uniform in each conditioned row; at least one position stays unknown.
    """
    weights = np.array([config.prefix, config.suffix, config.span, config.scattered])
    kinds = rng.choice(4, size=num_rows, p=weights / weights.sum())
    conditioned = rng.random(num_rows) < config.conditioned_fraction
    share = rng.random(num_rows)
    position = np.arange(row_length)
    prefix = position < (share * row_length).astype(int)[:, None]
    gap = np.maximum(((1 - share) * row_length).astype(int), 1)
    start = (rng.random(num_rows) * (row_length - gap + 1)).astype(int)
    outside = (position < start[:, None]) | (position >= (start + gap)[:, None])
    scattered = rng.random((num_rows, row_length)) < share[:, None]
    scattered[np.arange(num_rows), rng.integers(row_length, size=num_rows)] = False
    chosen = [kinds[:, None] == kind for kind in range(3)]
    masks = np.select(chosen, [prefix, prefix[:, ::-1], outside], scattered)
    return masks & conditioned[:, None]
