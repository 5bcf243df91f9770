"""A piece: one task's documents as ids, on disk between tokenizing and the shards.

00012.bin           ids, documents one after another, each with its end token
00012.npy           one row a document: where it ends, its bytes, its side of the split
00012.unigrams.npy  how often each id occurs
00012.json          the account: what was read, what each filter dropped; and what the data report shows
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from sunfish.files import read_json, replacing, write_json
from sunfish.text.shards import token_dtype

DOCUMENT = np.dtype([("end", "<u8"), ("bytes", "<u4"), ("held_out", "?")])


class PieceWriter:
    """Write a piece as it comes; nothing has its name before all is there, the account last."""

    def __init__(self, folder: Path, rank: int, vocab_size: int) -> None:
        self.folder, self.rank, self.dtype = folder, rank, token_dtype(vocab_size)
        self.rows: list[tuple[int, int, bool]] = []
        self.num_tokens = 0
        self._stack = ExitStack()

    def __enter__(self) -> PieceWriter:
        temporary = self._stack.enter_context(replacing(piece_path(self.folder, self.rank, "bin")))
        self._file = self._stack.enter_context(temporary.open("wb"))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def append(self, ids: np.ndarray, num_bytes: int, held_out: bool) -> None:
        """Add a document, its end token included."""
        self._file.write(ids.astype(self.dtype, copy=False).tobytes())
        self.num_tokens += len(ids)
        self.rows.append((self.num_tokens, num_bytes, held_out))

    def documents(self) -> np.ndarray:
        """Return one row for each document."""
        return np.array(self.rows, DOCUMENT)


def write_account(
    folder: Path, rank: int, documents: np.ndarray, unigrams: np.ndarray, account: dict[str, Any]
) -> None:
    """Write what stands beside the ids."""
    for kind, rows in (("npy", documents), ("unigrams.npy", unigrams)):
        with replacing(piece_path(folder, rank, kind)) as temporary, temporary.open("wb") as file:
            np.save(file, rows, allow_pickle=False)
    write_json(piece_path(folder, rank, "json"), account)


def read_documents(folder: Path, rank: int) -> np.ndarray:
    """Return a piece's rows, memory-mapped."""
    path = piece_path(folder, rank, "npy")
    return np.load(path, mmap_mode="r" if path.stat().st_size > 2**20 else None, allow_pickle=False)


def read_tokens(folder: Path, rank: int, vocab_size: int) -> np.ndarray:
    """Return a piece's ids, memory-mapped."""
    path, dtype = piece_path(folder, rank, "bin"), token_dtype(vocab_size)
    return np.memmap(path, dtype, mode="r") if path.stat().st_size else np.empty(0, dtype)


def read_account(folder: Path, rank: int) -> dict[str, Any]:
    """Return a piece's account."""
    account: dict[str, Any] = read_json(piece_path(folder, rank, "json"))
    return account


def read_unigrams(folder: Path, rank: int) -> np.ndarray:
    """Return how often each id occurs in a piece, (vocab,)."""
    return np.load(piece_path(folder, rank, "unigrams.npy"), allow_pickle=False)


def is_whole(folder: Path, rank: int, vocab_size: int) -> bool:
    """Say whether all of a piece is there: a machine that lost power may have lost files."""
    paths = [piece_path(folder, rank, kind) for kind in ("bin", "npy", "unigrams.npy", "json")]
    if not all(path.is_file() for path in paths):
        return False
    try:
        documents, account = read_documents(folder, rank), read_account(folder, rank)
        if documents.dtype != DOCUMENT or not {"documents_in", "bytes_in", "dropped", "text"} <= set(account):
            return False
    except (ValueError, OSError, TypeError):
        return False
    ends = int(documents["end"][-1]) if len(documents) else 0
    return paths[0].stat().st_size == ends * token_dtype(vocab_size).itemsize


def piece_path(folder: Path, rank: int, kind: str) -> Path:
    """Return where a part of a piece lies."""
    return folder / f"{rank:05d}.{kind}"
