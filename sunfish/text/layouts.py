"""How documents lie in rows: one a row, a stream cut into equal rows, or an instruction and its answer."""

from __future__ import annotations

import numpy as np

from sunfish.diffusion.lengths import AnswerLengths, RowLengths
from sunfish.errors import UserError
from sunfish.text.shards import Shard


class DocumentRows:
    """One document a row: three numbers a row are held.

    It ends with 1 to `row_multiple` end tokens, so that its length is a multiple; a document longer than
    `row_length` goes on in the next row."""

    def __init__(self, shards: list[Shard], row_length: int, row_multiple: int, end_id: int) -> None:
        pieces = self._cut(shards, row_length)
        self.shard = np.repeat(np.arange(len(pieces)), [len(starts) for starts, _ in pieces])
        self.start = np.concatenate([starts for starts, _ in pieces])
        self.sizes = np.concatenate([sizes for _, sizes in pieces])
        self.row_lengths = np.minimum(-(-self.sizes // row_multiple) * row_multiple, row_length)
        self.possible, self.tokens_in_rows = -(-row_length // row_multiple), int(self.sizes.sum())

    def _cut(self, shards: list[Shard], row_length: int) -> list[tuple[np.ndarray, np.ndarray]]:
        return [cut_documents(shard.ends, row_length) for shard in shards]

    def __len__(self) -> int:
        return len(self.start)

    def locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.shard[indices], self.start[indices], self.sizes[indices]

    def length(self, indices: np.ndarray) -> np.ndarray:
        lengths: np.ndarray = self.row_lengths[indices]
        return lengths

    def lengths(self) -> RowLengths:
        return RowLengths.count(self.row_lengths, self.possible)


class TaskRows(DocumentRows):
    """One task a row: an instruction and its answer, of which what does not fit is left out and counted.

    An answer ends with 1 to `row_multiple` end tokens, as a document does, so that a denoiser that is told
    lengths is told an answer's as it was told a document's.

    Raises:
        UserError: an instruction leaves no room for an answer.
    """

    def __init__(self, shards: list[Shard], row_length: int, row_multiple: int, end_id: int) -> None:
        super().__init__(shards, row_length, row_multiple, end_id)
        instruction = np.concatenate([_instruction_lengths(shard, end_id) for shard in shards])
        longest = int(instruction.max(initial=0))
        if longest >= row_length:
            says = f"an instruction of {longest} tokens leaves no room in a row of data.row_length"
            raise UserError(f"{says} = {row_length}; raise it, or filter such tasks out")
        rooms = -(-(self.sizes - instruction) // row_multiple) * row_multiple
        self.row_lengths = np.minimum(instruction + rooms, row_length)
        asked = instruction > 0
        self.answers = (
            AnswerLengths.count(instruction[asked], (self.row_lengths - instruction)[asked], self.possible)
            if asked.any()
            else None
        )

    def _cut(self, shards: list[Shard], row_length: int) -> list[tuple[np.ndarray, np.ndarray]]:
        bounds = [np.concatenate(([0], shard.ends)).astype(np.int64) for shard in shards]
        self.num_truncated = sum(int((np.diff(each) > row_length).sum()) for each in bounds)
        return [(each[:-1], np.minimum(np.diff(each), row_length)) for each in bounds]


def _instruction_lengths(shard: Shard, end_id: int) -> np.ndarray:
    """Return where the answer of each document begins: behind its last end token but one, or at 0."""
    bounds = np.concatenate(([0], shard.ends)).astype(np.int64)
    behind = np.concatenate(([0], 1 + np.flatnonzero(shard.tokens == end_id)))
    last = behind[np.searchsorted(behind, bounds[1:]) - 1]  # bounds[1:] are behind one, too
    lengths: np.ndarray = np.maximum(last - bounds[:-1], 0)
    return lengths


def instruction_mask(ids: np.ndarray, end_id: int) -> np.ndarray:
    """Return which positions are no answer: all up to the last end token that a text follows.

    `ids` and the mask are (rows, pos). A row without such an end token is all answer.
    """
    is_end = ids == end_id
    position = np.arange(ids.shape[1])
    last = np.where(is_end[:, :-1] & ~is_end[:, 1:], position[:-1], -1).max(axis=1)
    return np.asarray(position <= last[:, None])


def answer_weights(ids: np.ndarray, end_id: int) -> np.ndarray:
    """Return how much each position counts, (rows, pos): 0 in instructions, 1 on average over each row."""
    answer = ~instruction_mask(ids, end_id)
    return (answer / answer.mean(axis=1, keepdims=True)).astype(np.float32)


class StreamRows:
    """A shard's documents one after another, cut into equal rows; less than a row at its end is left out.

    Rows take no memory, however many."""

    def __init__(self, shards: list[Shard], row_length: int, row_multiple: int, end_id: int) -> None:
        self.row_length = row_length
        self.first_row = np.cumsum([0, *(len(shard.tokens) // row_length for shard in shards)])
        self.tokens_in_rows = len(self) * row_length

    def __len__(self) -> int:
        return int(self.first_row[-1])

    def locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shard = np.searchsorted(self.first_row, indices, side="right") - 1
        return shard, (indices - self.first_row[shard]) * self.row_length, self.length(indices)

    def length(self, indices: np.ndarray) -> np.ndarray:
        return np.full(len(indices), self.row_length)

    def lengths(self) -> RowLengths:
        return RowLengths((self.row_length,), (len(self),), 1)


def cut_documents(ends: np.ndarray, row_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where each row starts and how many tokens it holds, one document a row, long ones in pieces."""
    ends = ends.astype(np.int64)
    begins = np.concatenate(([0], ends[:-1])) if len(ends) else ends
    pieces = -(-(ends - begins) // row_length)
    document = np.repeat(np.arange(len(ends)), pieces)
    piece = np.arange(len(document)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = begins[document] + piece * row_length
    return starts, np.minimum(ends[document] - starts, row_length)


LAYOUTS: dict[str, type[DocumentRows] | type[StreamRows]] = {
    "documents": DocumentRows, "stream": StreamRows, "isolated": StreamRows, "tasks": TaskRows,
}  # fmt: skip
