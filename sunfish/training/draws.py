"""What chance decides in one training step: noise levels, known positions, which rows see their own first estimate.

Everything follows from (seed, step), so a resumed run and any number of devices draw the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sunfish.schedule import Array, draw_times
from sunfish.sections.diffusion import Known


@dataclass(frozen=True, eq=False)
class Draws:
    """One step's draws for all rows of the batch."""

    times: Array  # (batch,) in [0, 1]; 1 is noise alone
    known: np.ndarray  # bool, (batch, pos)
    noise_seeds: np.ndarray  # (micro-batch,)

    def micro(self, index: int, rows: int) -> Draws:
        """Return the part of micro-batch `index`."""
        part = slice(index * rows, (index + 1) * rows)
        return Draws(self.times[part], self.known[part], self.noise_seeds[index : index + 1])


def draw_step(known: Known, seed: int, step: int, batch_rows: int, micro_rows: int, row_length: int) -> Draws:
    """Draw one step. Times are low-discrepancy over the whole batch, but for the blind rows."""
    rng = np.random.default_rng((seed, step))
    times = draw_times(batch_rows, rng)
    mask = draw_known(known, batch_rows, row_length, rng)
    blind = mask.any(axis=1) & (rng.random(batch_rows) < known.blind_share)
    return Draws(np.where(blind, 1.0, times), mask, rng.integers(2**62, size=batch_rows // micro_rows))


def draw_known(section: Known, num_rows: int, row_length: int, rng: np.random.Generator) -> np.ndarray:
    """Return which positions are given: none in most rows, else a prefix, all but a span, or scattered ones.

    The share that is given is uniform in each such row; at least one position stays unknown.
    """
    weights = np.array([section.prefix, section.span, section.scattered])
    kinds = rng.choice(3, size=num_rows, p=weights / weights.sum())
    chosen = rng.random(num_rows) < section.row_share
    share = rng.random(num_rows)
    position = np.arange(row_length)
    prefix = position < (share * row_length).astype(int)[:, None]
    gap = np.maximum(((1 - share) * row_length).astype(int), 1)
    start = (rng.random(num_rows) * (row_length - gap + 1)).astype(int)
    outside = (position < start[:, None]) | (position >= (start + gap)[:, None])
    scattered = rng.random((num_rows, row_length)) < share[:, None]
    scattered[np.arange(num_rows), rng.integers(row_length, size=num_rows)] = False
    masks = np.select([kinds[:, None] == 0, kinds[:, None] == 1], [prefix, outside], scattered)
    return masks & chosen[:, None]
