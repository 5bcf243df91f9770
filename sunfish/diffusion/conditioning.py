"""What chance decides in one training step: noise levels, known positions, blocks, which rows see their own
first estimate.

Everything follows from (seed, step) and is drawn for the whole batch, so a resumed run and any number of
processes draw the same."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sunfish.diffusion.schedule import Array, draw_times
from sunfish.config.schema.diffusion import Blocks, Known, DiffusionConfig
from sunfish.stagger import clocks, draw_places


class Rows(NamedTuple):
    """Which rows stand in two copies, and which are clean alone, in pairs."""

    twice: np.ndarray
    alone: np.ndarray


class Draws(NamedTuple):
    """One step's draws for all rows of the batch, or for the part of them from `first_row` on."""

    times: Array  # (rows, pos) in [0, 1]; 1 is noise alone
    known: np.ndarray  # bool, (rows, pos): given, or denoised already
    free: np.ndarray  # bool, (rows,): nothing was given
    place: np.ndarray  # (rows, pos): each position's place in the order, from 1 on; 0 where given
    start: np.ndarray  # (rows, pos): the place at which its block begins to be open
    estimated: np.ndarray  # bool, (rows,): self-conditioned on a first estimate
    said: np.ndarray  # bool, (rows, pos): the position behind is told this word, once it is clean
    noisy: np.ndarray  # bool, (rows,): has a noisy copy, and is not only asked what comes next
    noise_seed: int  # of the whole batch's noise
    batch_rows: int
    first_row: int = 0

    def part(self, rows: slice) -> Draws:
        """Return some of these rows' draws."""
        first = self.first_row + rows.start
        theirs = {
            name: getattr(self, name)[rows]
            for name in ("times", "known", "free", "place", "start", "estimated", "said", "noisy")
        }
        return self._replace(**theirs, first_row=first)

    @property
    def asked(self) -> np.ndarray:
        """Return which positions a noisy copy is asked about, (rows, pos)."""
        return ~self.known & self.noisy[:, None]

    @property
    def deciding(self) -> np.ndarray:
        """Return which positions are between noise and data, (rows, pos)."""
        return self.asked & (self.times < 1.0)

    def shared_out(self) -> Rows:
        """Share the rows out; an odd one that has no noisy copy gets one all the same, of which nothing is
        asked.
        """
        alone = np.flatnonzero(~self.noisy)
        alone = alone[len(alone) % 2 :]
        return Rows(np.setdiff1d(np.arange(len(self.noisy)), alone), alone)


def draw_step(section: DiffusionConfig, seed: int, step: int, batch_rows: int, row_length: int) -> Draws:
    """Draw one step.

    Rows and noise levels come in random order, so evenly spaced rows are as good as any for self-conditioning
    or a noisy copy, and each part has its share."""
    rng = np.random.default_rng((seed, step))
    given = draw_known(section.known, batch_rows, row_length, rng)
    if section.blocks is None:
        times, place = draw_rows(section.known, given, rng), np.where(given, 0, 1)
        start = np.ones_like(place)
    else:
        times, place, block = draw_blocks(section.blocks, given, rng)
        start = first_open(place, block, ~given & (times > 0.0))
    known, free = np.asarray(given | (times <= 0.0)), np.asarray(~given.any(axis=1))
    noisy = evenly(batch_rows, section.blocks.noisy_share if section.blocks else 1.0)
    estimated = np.zeros(batch_rows, dtype=bool)
    estimated[noisy] = evenly(int(noisy.sum()), section.self_conditioning)
    noise_seed = int(rng.integers(2**62))
    said = rng.random(given.shape) < (section.blocks.told_share if section.blocks else 1.0)
    return Draws(times, known, free, place, start, estimated, said, noisy, noise_seed, batch_rows)


def evenly(num: int, share: float) -> np.ndarray:
    """Choose a share of `num` rows, evenly spaced from the first one on; bool, (num,)."""
    return np.diff(np.ceil(np.arange(num + 1) * share - 1e-9)) > 0


def draw_rows(section: Known, given: np.ndarray, rng: np.random.Generator) -> Array:
    """Return one time for each row, (rows, pos), of low discrepancy over the batch, but for the blind
    rows.
    """
    times = draw_times(len(given), rng)
    blind = given.any(axis=1) & (rng.random(len(given)) < section.blind_share)
    return np.broadcast_to(np.where(blind, 1.0, times)[:, None], given.shape).copy()


def draw_blocks(
    section: Blocks, given: np.ndarray, rng: np.random.Generator
) -> tuple[Array, np.ndarray, np.ndarray]:
    """Return each position's time, place and block, (rows, pos): a block has one time of its walk, and a
    clock for each position.
    """
    place = draw_places(section.order, given, rng)
    size = np.exp(rng.uniform(0.0, np.log(section.size_max + 1), (len(given), 1))).astype(np.int64)
    turn = np.maximum(place - 1, 0) + rng.integers(size)  # where the first block begins is drawn, too
    block, lag = turn // size, (turn % size) / np.maximum(size - 1, 1)
    window = np.where(
        rng.random(given.shape) < section.one_clock, 1.0, np.exp(rng.uniform(-np.log(size), 0.0, given.shape))
    )
    walk = np.where(
        rng.random(given.shape) < section.blind_share, 1.0, draw_times(given.size, rng).reshape(given.shape)
    )
    walk, window = (np.take_along_axis(values, block, axis=1) for values in (walk, window))
    return clocks(walk, lag, window), place, block


def first_open(place: np.ndarray, block: np.ndarray, is_open: np.ndarray) -> np.ndarray:
    """Return the place of the first open position of each position's block, (rows, pos): what comes before it
    is clean.

    Where none of a block is open, it is the place after the position's own.
    """
    beyond = np.iinfo(np.int64).max
    first = np.full((len(place), int(block.max()) + 1), beyond)
    np.minimum.at(first, (np.arange(len(place))[:, None], block), np.where(is_open, place, beyond))
    start = np.take_along_axis(first, block, axis=1)
    return np.where((place == 0) | (start == beyond), place + 1, start)


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
