"""In which order training visits rows: seeded, and any step's batch is had without those before it."""

from __future__ import annotations

import functools
from typing import Protocol

import numpy as np


class Order(Protocol):
    """Which rows each step trains on."""

    def indices(self, step: int) -> np.ndarray:
        """Return the row indices of a step's batch, (batch_rows,)."""


class EvenOrder:
    """Batches of rows of one length, in a seeded order for each epoch, in constant time and memory."""

    def __init__(self, num_rows: int, batch_rows: int, seed: int) -> None:
        self.num_rows, self.batch_rows, self.seed = num_rows, batch_rows, seed
        self.batches_per_epoch = max(1, num_rows // batch_rows)

    def indices(self, step: int) -> np.ndarray:
        """Return a step's rows, (batch_rows,), twice the same only where there are less than a batch."""
        epoch, batch = divmod(step, self.batches_per_epoch)
        positions = np.arange(batch * self.batch_rows, (batch + 1) * self.batch_rows) % self.num_rows
        return Shuffle(self.num_rows, (self.seed, epoch))(positions)


class Shuffle:
    """A seeded permutation of range(size), any part of it at once: a Feistel network, walked into range.

    Source: [LubyRackoff] (the network), [BlackRogaway] section 3 (cycle walking).
    """

    ROUNDS = 6

    def __init__(self, size: int, seed: tuple[int, ...]) -> None:
        self.size = np.uint64(size)
        half = max(1, -(-(size - 1).bit_length() // 2))
        self.half, self.mask = np.uint64(half), np.uint64(2**half - 1)
        self.keys = np.random.default_rng(seed).integers(2**64, size=self.ROUNDS, dtype=np.uint64)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Return what stands at these positions."""
        values = self._mix(positions.astype(np.uint64))
        while (outside := values >= self.size).any():
            values[outside] = self._mix(values[outside])
        return values.astype(np.int64)

    def _mix(self, values: np.ndarray) -> np.ndarray:
        left, right = values >> self.half, values & self.mask
        for key in self.keys:
            left, right = right, left ^ (_scramble(right ^ key) & self.mask)
        return left << self.half | right


def _scramble(values: np.ndarray) -> np.ndarray:
    """Spread every bit over all others. Source: [SplitMix], its finaliser."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class BatchOrder:
    """Batches of rows of like length, in a seeded order for each epoch; a position in it is one integer.

    Each epoch sorts a fresh permutation by length and cuts it into batches; less than one batch, at random,
    is left out."""

    def __init__(self, lengths: np.ndarray, batch_rows: int, seed: int) -> None:
        self.lengths, self.batch_rows, self.seed = lengths, batch_rows, seed
        self.batches_per_epoch = max(1, len(lengths) // batch_rows)
        self._epoch = functools.lru_cache(maxsize=2)(self._arrange)

    def _arrange(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, epoch))
        count = self.batches_per_epoch * self.batch_rows
        # repeated where all rows together are less than a batch
        rows = np.resize(rng.permutation(len(self.lengths)), count)
        rows = rows[np.argsort(self.lengths[rows], kind="stable")]
        return rng.permutation(rows.reshape(self.batches_per_epoch, self.batch_rows))

    def indices(self, step: int) -> np.ndarray:
        """Return the row indices of a step's batch, (batch_rows,)."""
        epoch, batch = divmod(step, self.batches_per_epoch)
        indices: np.ndarray = self._epoch(epoch)[batch]
        return indices
