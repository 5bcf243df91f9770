"""Shards -> (batch, pos) ids: rows with random access, in a seeded order that one integer resumes.

python -m sunfish.text.batches 1234     # print the texts of that step's batch
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from sunfish.config import read_section
from sunfish.lengths import RowLengths
from sunfish.problems import Problem, report_problems
from sunfish.sections.data import Section
from sunfish.sections.pretrain import Section as Pretrain
from sunfish.text.shards import Shards

Ids = np.ndarray  # int64, (batch, pos)


class Rows:
    """A split's rows: one document each, or a stream of documents cut into equal rows.

    A document's row ends with 1 to `row_multiple` end tokens, so that its length is a multiple; a document longer than
    `row_length` goes on in the next row.
    """

    def __init__(self, shards: Shards, split: str, section: Section, row_length: int | None = None) -> None:
        self.row_length, self.end_id = row_length or section.row_length, shards.end_id
        self.shards = shards.split(split)
        cut = _cut_documents if section.rows == "documents" else _cut_stream
        pieces = [cut(shard.ends, self.row_length) for shard in self.shards]
        self.shard = np.repeat(np.arange(len(pieces)), [len(starts) for starts, _ in pieces])
        self.start = np.concatenate([starts for starts, _ in pieces])
        self.num_tokens = np.concatenate([sizes for _, sizes in pieces])
        multiple = section.row_multiple if section.rows == "documents" else self.row_length
        self.possible = -(-self.row_length // multiple)
        self.length = np.minimum(-(-self.num_tokens // multiple) * multiple, self.row_length)
        if len(self) == 0:
            raise Problem(
                f"{shards.folder}: the {split} split ({shards.num_tokens(split):,} tokens) does not fill one row of "
                f"data.row_length = {self.row_length}; use more documents, a larger data.held_out_share or shorter rows"
            )

    def __len__(self) -> int:
        return len(self.start)

    def lengths(self) -> RowLengths:
        """Return how long rows are, and how often."""
        return RowLengths.count(self.length, self.possible)

    def read(self, indices: np.ndarray, length: int | None = None) -> Ids:
        """Return rows by index, (len(indices), `length` or the longest one's), end tokens behind the text."""
        ids = np.full((len(indices), length or int(self.length[indices].max())), self.end_id, np.int64)
        for row, index in zip(ids, indices, strict=True):
            start, size = self.start[index], self.num_tokens[index]
            row[:size] = self.shards[self.shard[index]].tokens[start : start + size]
        return ids

    def first(self, num: int) -> np.ndarray:
        """Return the indices of the first `num` rows, or of all."""
        return np.arange(min(num, len(self)))

    def batches(self, indices: np.ndarray, batch_rows: int) -> Iterator[Ids]:
        """Yield rows in batches of at most `batch_rows`, each of one length, shorter rows first."""
        for length in np.unique(self.length[indices]):
            alike = indices[self.length[indices] == length]
            for start in range(0, len(alike), batch_rows):
                yield self.read(alike[start : start + batch_rows])


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


class BatchOrder:
    """Batches of rows of like length, in a seeded order for each epoch; a position in it is one integer, on any number of devices.

    Each epoch sorts a fresh permutation by length and cuts it into batches; less than one batch, at random, is left out.
    """

    def __init__(self, lengths: np.ndarray, batch_rows: int, seed: int) -> None:
        self.lengths, self.batch_rows, self.seed = lengths, batch_rows, seed
        self.batches_per_epoch = max(1, len(lengths) // batch_rows)
        self._epoch = functools.lru_cache(maxsize=2)(self._arrange)

    def _arrange(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, epoch))
        count = self.batches_per_epoch * self.batch_rows
        rows = np.resize(rng.permutation(len(self.lengths)), count)  # repeated where all rows together are less than a batch
        rows = rows[np.argsort(self.lengths[rows], kind="stable")]
        return rng.permutation(rows.reshape(self.batches_per_epoch, self.batch_rows))

    def indices(self, step: int) -> np.ndarray:
        """Return the row indices of a step's batch, (batch_rows,)."""
        epoch, batch = divmod(step, self.batches_per_epoch)
        indices: np.ndarray = self._epoch(epoch)[batch]
        return indices


class Feed:
    """One process's rows of each step's batch, read ahead of the training by a thread of its own."""

    def __init__(self, rows: Rows, order: BatchOrder, part: slice) -> None:
        self.rows, self.order, self.part = rows, order, part
        self.reader = ThreadPoolExecutor(1)
        self.ahead: dict[int, Future[Ids]] = {}

    def __call__(self, step: int) -> Ids:
        """Return the ids of `step`, and begin to read the next."""
        now = self.ahead.pop(step, None)
        self.ahead = {step + 1: self.reader.submit(self._read, step + 1)}
        return self._read(step) if now is None else now.result()

    def _read(self, step: int) -> Ids:
        indices = self.order.indices(step)
        return self.rows.read(indices[self.part], int(self.rows.length[indices].max()))


@report_problems
def main() -> None:
    """Print the texts of one step's batch: what the model saw when its loss jumped."""
    parser = argparse.ArgumentParser(prog="python -m sunfish.text.batches", description=main.__doc__)
    parser.add_argument("step", type=int, help="counted from 0")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--shards", type=Path, default=Path("data/shards"))
    arguments = parser.parse_args()
    data, pretrain = read_section(arguments.params, "data", Section), read_section(arguments.params, "pretrain", Pretrain)
    shards = Shards(arguments.shards)
    rows = Rows(shards, "train", data)
    for row in rows.read(BatchOrder(rows.length, pretrain.batch_rows, pretrain.seed).indices(arguments.step)).tolist():
        print(shards.tokenizer.decode_row(row))


if __name__ == "__main__":
    main()
