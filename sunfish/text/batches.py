"""Shards -> (batch, pos) ids: rows with random access, in a seeded order that one integer resumes.

python -m sunfish.text.batches 1234     # print the texts of that step's batch
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from sunfish.config.compose import read_section
from sunfish.config.schema.data import DataConfig
from sunfish.diffusion.lengths import RowLengths
from sunfish.errors import UserError, report_errors
from sunfish.text.layouts import LAYOUTS, StreamRows, TaskRows
from sunfish.text.order import BatchOrder, EvenOrder, Order
from sunfish.text.shards import Shards

Ids = np.ndarray  # int64, (batch, pos)


class RowDataset:
    """A split's rows, any in constant time, laid out as `data.rows` says; see `sunfish.text.layouts`."""

    def __init__(
        self, shards: Shards, split: str, section: DataConfig, row_length: int | None = None
    ) -> None:
        self.row_length, self.end_id = row_length or section.row_length, shards.end_id
        self.shards = shards.split(split)
        # the token between documents that do not see each other
        self.between = shards.end_id if section.rows == "isolated" else None
        self.layout = LAYOUTS[section.rows](self.shards, self.row_length, section.row_multiple, self.end_id)
        self.answers = self.layout.answers if isinstance(self.layout, TaskRows) else None  # None: no tasks
        if len(self) == 0:
            what = f"{shards.folder}: the {split} split ({shards.num_tokens(split):,} tokens)"
            advice = "use more documents, a larger data.held_out_share or shorter rows"
            raise UserError(f"{what} does not fill one row of data.row_length = {self.row_length}; {advice}")

    def __len__(self) -> int:
        return len(self.layout)

    def lengths(self) -> RowLengths:
        """Return how long rows are, and how often."""
        return self.layout.lengths()

    def num_tokens(self, indices: np.ndarray) -> np.ndarray:
        """Return how many tokens rows hold, the document's own end token included, further ones not."""
        return self.layout.locate(indices)[2]

    def tokens_in_rows(self) -> int:
        """Return how many tokens all rows hold together."""
        return self.layout.tokens_in_rows

    def num_positions(self) -> int:
        """Return how many positions all rows have together."""
        lengths = self.lengths()
        return int(np.dot(lengths.lengths, lengths.counts))

    def length(self, indices: np.ndarray) -> np.ndarray:
        """Return how many positions rows have."""
        return self.layout.length(indices)

    def order(self, batch_rows: int, seed: int) -> Order:
        """Return the order in which training visits the rows."""
        if isinstance(self.layout, StreamRows):
            return EvenOrder(len(self), batch_rows, seed)
        return BatchOrder(self.layout.row_lengths, batch_rows, seed)

    def read(self, indices: np.ndarray, length: int | None = None) -> Ids:
        """Return rows by index, (len(indices), `length` or the longest one's), end tokens behind the text."""
        ids = np.full((len(indices), length or int(self.length(indices).max())), self.end_id, np.int64)
        for row, shard, start, size in zip(ids, *self.layout.locate(indices), strict=True):
            row[:size] = self.shards[shard].tokens[start : start + size]
        return ids

    def first(self, num: int) -> np.ndarray:
        """Return the indices of the first `num` rows, or of all."""
        return np.arange(min(num, len(self)))

    def batches(self, indices: np.ndarray, batch_rows: int) -> Iterator[Ids]:
        """Yield rows in batches of at most `batch_rows`, each of one length, shorter rows first."""
        lengths = self.length(indices)
        for length in np.unique(lengths):
            alike = indices[lengths == length]
            for start in range(0, len(alike), batch_rows):
                yield self.read(alike[start : start + batch_rows])


class Prefetcher:
    """One process's rows of each step's batch, read ahead of the training by a thread of its own."""

    def __init__(self, rows: RowDataset, order: Order, part: slice) -> None:
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
        return self.rows.read(indices[self.part], int(self.rows.length(indices).max()))


@report_errors
def main() -> None:
    """Print the texts of one step's batch: what the model saw when its loss jumped."""
    parser = argparse.ArgumentParser(prog="python -m sunfish.text.batches", description=main.__doc__)
    parser.add_argument("step", type=int, help="counted from 0")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--shards", type=Path, default=Path("data/shards"))
    arguments = parser.parse_args()
    data, pretrain = (read_section(arguments.params, name) for name in ("data", "pretrain"))
    shards = Shards(arguments.shards)
    rows = RowDataset(shards, "train", data)
    for row in rows.read(rows.order(pretrain.batch_rows, pretrain.seed).indices(arguments.step)).tolist():
        print(shards.tokenizer.decode_row(row))


if __name__ == "__main__":
    main()
