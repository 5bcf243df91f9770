"""`data`: which documents, which tokenizer, how they lie in rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sunfish.problems import require


@dataclass(frozen=True, kw_only=True)
class Stories:
    """The embedded story grammar; needs no network and no files."""

    kind: Literal["stories"]
    num_documents: int
    seed: int

    def __post_init__(self) -> None:
        require(self.num_documents > 0, "num_documents", "must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Files:
    """Local parquet, jsonl or txt files, by path or glob."""

    kind: Literal["files"]
    paths: tuple[str, ...]
    text_column: str  # of parquet and jsonl
    separator: str | None  # between the documents of a txt file; null: one document a file

    def __post_init__(self) -> None:
        require(len(self.paths) > 0, "paths", "must name at least one file, e.g. -S 'data.source.paths=[texts/*.parquet]'")


@dataclass(frozen=True, kw_only=True)
class Hub:
    """A dataset streamed from the Hugging Face Hub, FineWeb by default."""

    kind: Literal["hub"]
    name: str
    config: str
    revision: str
    split: str
    text_column: str
    max_documents: int | None
    max_tokens: int | None  # stop after the document that reaches it

    def __post_init__(self) -> None:
        limits = [n for n in (self.max_documents, self.max_tokens) if n is not None]
        require(len(limits) > 0, "max_documents", "or max_tokens must be set: the whole dataset is 15 T tokens")
        require(all(n > 0 for n in limits), "max_documents", "and max_tokens must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A byte-level BPE trained on the corpus, or a pretrained one by Hub name or path."""

    pretrained: str | None
    unit: Literal["pieces", "words"]  # of a trained one: merged pieces of words, or the corpus' own words and bytes for all others
    vocab_size: int  # at most this when trained; must be the pretrained one's size otherwise
    train_documents: int

    def __post_init__(self) -> None:
        require(self.pretrained is not None or self.vocab_size > 256, "vocab_size", "must be above 256, the bytes and the end token")
        require(self.train_documents > 0, "train_documents", "must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Section:
    """Documents -> token shards."""

    source: Stories | Files | Hub
    tokenizer: Tokenizer
    rows: Literal["documents", "stream"]  # one document a row and end tokens behind it, or a stream cut into rows
    row_length: int
    row_multiple: int  # a document's row is as long as the document, rounded up to a multiple of this
    held_out_share: float  # of the documents, chosen by their hash
    shard_tokens: int

    def __post_init__(self) -> None:
        require(self.row_length >= 8, "row_length", "must be at least 8 tokens")
        require(self.row_multiple >= 1, "row_multiple", "must be at least 1")
        require(self.row_length % self.row_multiple == 0, "row_multiple", f"must divide row_length = {self.row_length}")
        require(0.0 < self.held_out_share < 1.0, "held_out_share", "must lie between 0 and 1, both excluded")
        require(self.shard_tokens >= self.row_length, "shard_tokens", f"must hold at least one row of {self.row_length}")
