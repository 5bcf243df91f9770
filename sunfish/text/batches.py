"""Shards -> (batch, pos) ids: rows with random access, in a seeded order that one integer resumes."""

from __future__ import annotations

import functools

import numpy as np

from sunfish.problems import Problem
from sunfish.text.shards import Shards

Ids = np.ndarray  # int64, (batch, pos)


class Rows:
    """A split's rows: one document each and end tokens behind it, or a stream of documents cut into equal rows.

    A document longer than a row goes on in the next one.
    """

    def __init__(self, shards: Shards, split: str, kind: str, row_length: int) -> None:
        self.row_length, self.end_id = row_length, shards.end_id
        self.shards = shards.split(split)
        cut = _cut_documents if kind == "documents" else _cut_stream
        pieces = [cut(shard.ends, row_length) for shard in self.shards]
        self.shard = np.repeat(np.arange(len(pieces)), [len(starts) for starts, _ in pieces])
        self.start = np.concatenate([starts for starts, _ in pieces])
        self.length = np.concatenate([lengths for _, lengths in pieces])
        if len(self) == 0:
            raise Problem(
                f"{shards.folder}: the {split} split ({shards.num_tokens(split):,} tokens) does not fill one row of "
                f"data.row_length = {row_length}; use more documents, a larger data.held_out_share or shorter rows"
            )

    def __len__(self) -> int:
        return len(self.start)

    def read(self, indices: np.ndarray) -> Ids:
        """Return rows by index, (len(indices), row_length)."""
        ids = np.full((len(indices), self.row_length), self.end_id, np.int64)
        for row, index in zip(ids, indices, strict=True):
            start, length = self.start[index], self.length[index]
            row[:length] = self.shards[self.shard[index]].tokens[start : start + length]
        return ids


def _cut_documents(ends: np.ndarray, row_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where each row starts and how many tokens it holds, one document a row, long ones in pieces."""
    ends = ends.astype(np.int64)
    begins = np.concatenate(([0], ends[:-1])) if len(ends) else ends
    pieces = -(-(ends - begins) // row_length)
    document = np.repeat(np.arange(len(ends)), pieces)
    piece = np.arange(len(document)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = begins[document] + piece * row_length
    return starts, np.minimum(ends[document] - starts, row_length)


def _cut_stream(ends: np.ndarray, row_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the starts of full rows; the last tokens of a shard, less than a row, are left out."""
    count = int(ends[-1]) // row_length if len(ends) else 0
    return np.arange(count, dtype=np.int64) * row_length, np.full(count, row_length, np.int64)


class RowOrder:
    """A seeded permutation of the rows for each epoch; a position in it is one integer, on any number of devices."""

    def __init__(self, num_rows: int, seed: int) -> None:
        self.num_rows, self.seed = num_rows, seed
        self._epoch = functools.lru_cache(maxsize=2)(self._permute)

    def _permute(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(self.num_rows)

    def indices(self, start: int, count: int) -> np.ndarray:
        """Return the row indices at positions start, ..., start + count - 1 of the endless order."""
        positions = np.arange(start, start + count)
        return np.array([self._epoch(int(p) // self.num_rows)[int(p) % self.num_rows] for p in positions])
