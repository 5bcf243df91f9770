"""`data`: which documents, which tokenizer, how they lie in rows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from sunfish.config.schema.sources import SOURCES
from sunfish.config.schema.sources import Puzzles as Puzzles
from sunfish.config.schema.sources import Stories as Stories
from sunfish.errors import AT_LEAST_1, SHARE, require, require_each


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A byte-level BPE trained on the corpus, or a pretrained one by Hub name or path."""

    pretrained: str | None
    # of a trained one: merged pieces of words, or the corpus' own words and bytes for all others
    unit: Literal["pieces", "words"]
    vocab_size: int  # at most this when trained; must be the pretrained one's size otherwise
    train_documents: int  # drawn from all files
    max_unknown_share: float  # of a sample's tokens, those that stand for what the tokenizer does not know
    max_altered_share: float  # of a sample's documents, those that do not come back as they were

    def __post_init__(self) -> None:
        large_enough = self.pretrained is not None or self.vocab_size > 256
        require(large_enough, "vocab_size", "must be above 256, the bytes and the end token")
        require_each(self, AT_LEAST_1, "train_documents")
        require_each(self, SHARE, "max_unknown_share", "max_altered_share")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Documents -> token shards."""

    sources: dict[str, Annotated[Any, SOURCES]]
    mixing_seed: int  # of the order in which documents of several sources follow one another
    duplicates: Literal["keep", "drop_exact", "drop_near"]  # near: alike in most of their five-word runs
    tokenizer: Tokenizer
    # documents: one a row, end tokens behind it; stream: one after another, cut into rows; isolated: the
    # same, but none sees another; tasks: an instruction and its answer a row, cut where the row ends
    rows: Literal["documents", "stream", "isolated", "tasks"]
    row_length: int
    row_multiple: int  # a document's row is as long as the document, rounded up to a multiple of this
    held_out_share: float  # of the documents, chosen by their hash
    shard_tokens: int
    task_bytes: int  # of input, the work that is done and repeated as one; no say in the order of documents

    def __post_init__(self) -> None:
        self._check_sources()
        require(self.row_length >= 8, "row_length", "must be at least 8 tokens")
        require_each(self, AT_LEAST_1, "row_multiple")
        divides = self.row_length % self.row_multiple == 0
        require(divides, "row_multiple", f"must divide row_length = {self.row_length}")
        require(0.0 < self.held_out_share < 1.0, "held_out_share", "must lie between 0 and 1, both excluded")
        holds_a_row = self.shard_tokens >= self.row_length
        require(holds_a_row, "shard_tokens", f"must hold at least one row of {self.row_length}")
        require(self.task_bytes >= 2**20, "task_bytes", "must be at least 1 MiB = 1_048_576")

    def _check_sources(self) -> None:
        require(len(self.sources) > 0, "sources", "must hold at least one source, e.g. data=stories")
        for name in self.sources:
            allowed = re.fullmatch(r"[a-z0-9_-]+", name) is not None
            require(allowed, "sources", f"has the name {name!r}: use a-z, 0-9, _ and -")
        weights = [source.weight is not None for source in self.sources.values()]
        require(all(weights) or not any(weights), "sources", "must all have a weight, or none of them")
