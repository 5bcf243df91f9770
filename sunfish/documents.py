"""Documents and where they stand: a file as it was found, a stretch of it, and what is read there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TURN = "\x1e"  # between an instruction and its answer in a document: ASCII's record separator


@dataclass(frozen=True)
class File:
    """A file as it was found."""

    path: str  # local, or a URL
    size: int  # bytes
    version: str  # what its place says changes with its content: a time, an ETag; "" where it says nothing


@dataclass(frozen=True)
class Span:
    """Bytes start to stop of a file; of a source without files whatever it counts by, such as documents."""

    path: str
    size: int
    start: int
    stop: int


@dataclass(frozen=True)
class Record:
    """One document as its source has it."""

    text: str
    columns: dict[str, Any]
    where: str  # for messages: the file and the line or row


@dataclass(frozen=True)
class Unreadable:
    """Records that are lost, and why; the reason says where."""

    reason: str
    count: int = 1


def is_remote(path: str) -> bool:
    """Say whether a path is a URL that fsspec opens."""
    return "://" in path and not path.startswith("file://")


def reason_of(error: BaseException) -> str:
    """Return the first line of what an error says, or its kind."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
