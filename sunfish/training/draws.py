"""What chance decides in one training step: noise levels, known positions, which rows see their own first estimate.

Everything follows from (seed, step) and is drawn for the whole batch, so a resumed run and any number of processes draw the same.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sunfish.schedule import Array, draw_times
from sunfish.sections.diffusion import Known, Section, Stagger
from sunfish.stagger import clocks, draw_lags


class Draws(NamedTuple):
    """One step's draws for all rows of the batch, or for the part of them from `first_row` on."""

    times: Array  # (rows, pos) in [0, 1]; 1 is noise alone
    known: np.ndarray  # bool, (rows, pos): given, or denoised already
    free: np.ndarray  # bool, (rows,): nothing was given
    estimated: np.ndarray  # bool, (rows,): self-conditioned on a first estimate
    noise_seed: int  # of the whole batch's noise
    batch_rows: int
    first_row: int = 0

    def part(self, rows: slice) -> Draws:
        """Return some of these rows' draws."""
        first = self.first_row + rows.start
        theirs = {name: getattr(self, name)[rows] for name in ("times", "known", "free", "estimated")}
        return self._replace(**theirs, first_row=first)

    @property
    def deciding(self) -> np.ndarray:
        """Return which positions are between noise and data, (rows, pos)."""
        return ~self.known & (self.times < 1.0)


def draw_step(section: Section, seed: int, step: int, batch_rows: int, row_length: int) -> Draws:
    """Draw one step. Times are low-discrepancy over the whole batch, but for the blind rows.

    Rows and noise levels come in random order, so evenly spaced rows are as good as any for self-conditioning, and each part has its share.
    """
    rng = np.random.default_rng((seed, step))
    t = draw_times(batch_rows, rng)
    given = draw_known(section.known, batch_rows, row_length, rng)
    blind = given.any(axis=1) & (rng.random(batch_rows) < section.known.blind_share)
    times = np.where(blind[:, None], 1.0, draw_clocks(section.stagger, t, given, rng))
    estimated = np.diff(np.floor(np.arange(batch_rows + 1) * section.self_conditioning + 1e-9)) > 0
    known, free = np.asarray(given | (times <= 0.0)), np.asarray(~given.any(axis=1))
    return Draws(times, known, free, estimated, int(rng.integers(2**62)), batch_rows)


def draw_clocks(section: Stagger, t: Array, given: np.ndarray, rng: np.random.Generator) -> Array:
    """Return what each position's clock says, (rows, pos), at times `t`, (rows,): one clock a position, or one for the whole row."""
    rows = len(t)
    narrow, wide = np.log((section.window_min, section.window_max))
    window = np.where(rng.random(rows) < section.row_share, np.exp(rng.uniform(narrow, wide, rows)), 1.0)
    return clocks(t, draw_lags(section.order, given, rng), window)


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
