"""`data`: which documents, which tokenizer, how they lie in rows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from sunfish.errors import require


@dataclass(frozen=True, kw_only=True)
class Values:
    """Keep documents whose column holds one of some values, such as language: en."""

    kind: Literal["values"]
    column: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        require(len(self.values) > 0, "values", "must name at least one value, or nothing would be kept")


@dataclass(frozen=True, kw_only=True)
class Range:
    """Keep documents whose column is a number within limits, both included, such as language_score from
    0.65.
    """

    kind: Literal["range"]
    column: str
    min: float | None
    max: float | None

    def __post_init__(self) -> None:
        _require_order(self.min, self.max)


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """Keep documents in whose column a regular expression is found, such as url: '[.]edu/'; with `keep:
    false`, all others.
    """

    kind: Literal["pattern"]
    column: str
    pattern: str
    keep: bool

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            require(False, "pattern", f"is no regular expression ({error})")


@dataclass(frozen=True, kw_only=True)
class Length:
    """Keep documents whose text has so many characters, both limits included."""

    kind: Literal["length"]
    min: int | None
    max: int | None

    def __post_init__(self) -> None:
        _require_order(self.min, self.max)


def _require_order(low: float | None, high: float | None) -> None:
    require(low is not None or high is not None, "min", "or max must be set, or the filter keeps everything")
    require(
        low is None or high is None or low <= high,
        "max",
        f"must not be below min = {low}, or nothing would be kept",
    )


Filter = Values | Range | Pattern | Length


@dataclass(frozen=True, kw_only=True)
class Stories:
    """An embedded story grammar; needs no network and no files."""

    kind: Literal["stories"]
    grammar: Literal["short", "long"]  # long: twice as many sentences, and more to keep track of
    num_documents: int
    seed: int
    weight: float | None  # as of files

    def __post_init__(self) -> None:
        require(self.num_documents > 0, "num_documents", "must be at least 1")
        require(self.weight is None or self.weight > 0, "weight", "must be above 0, or null")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What files and Hub have in common: where the text stands, which documents are kept, how many."""

    text_column: str  # of parquet and jsonl
    url_column: str | None  # whose hosts are counted for the look at the data
    filters: tuple[Filter, ...]
    unreadable: Literal[
        "fatal", "skip"
    ]  # records that are no text: a line cut off, a page that is corrupt, half a surrogate pair
    max_documents: int | None  # of those that the filters keep, in the order of the files
    max_tokens: int | None  # up to the document that reaches it
    weight: float | None  # share of the tokens beside other sources; null for all: everything of each

    def __post_init__(self) -> None:
        for key in ("max_documents", "max_tokens"):
            limit = getattr(self, key)
            require(limit is None or limit > 0, key, "must be at least 1, or null for no limit")
        require(self.weight is None or self.weight > 0, "weight", "must be above 0, or null")


@dataclass(frozen=True, kw_only=True)
class Files(Columns):
    """Files here or elsewhere, by path, glob or URL: parquet, jsonl, txt, the last two also as .zst or
    .gz.
    """

    kind: Literal["files"]
    paths: tuple[str, ...]
    separator: str | None  # between the documents of a txt file; null: one document a file

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            len(self.paths) > 0,
            "paths",
            "must name at least one file, e.g. -S 'data.sources.files.paths=[texts/*.parquet]'",
        )
        require(self.separator != "", "separator", "must not be empty; null makes each txt file one document")


@dataclass(frozen=True, kw_only=True)
class Hub(Columns):
    """A dataset of the Hugging Face Hub, read from there without a copy; FineWeb by default."""

    kind: Literal["hub"]
    name: str
    config: str  # for FineWeb a sample or a dump: sample-10BT, CC-MAIN-2024-51
    revision: str
    split: str


Source = Stories | Files | Hub


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A byte-level BPE trained on the corpus, or a pretrained one by Hub name or path."""

    pretrained: str | None
    unit: Literal[
        "pieces", "words"
    ]  # of a trained one: merged pieces of words, or the corpus' own words and bytes for all others
    vocab_size: int  # at most this when trained; must be the pretrained one's size otherwise
    train_documents: int

    def __post_init__(self) -> None:
        require(
            self.pretrained is not None or self.vocab_size > 256,
            "vocab_size",
            "must be above 256, the bytes and the end token",
        )
        require(self.train_documents > 0, "train_documents", "must be at least 1")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Documents -> token shards."""

    sources: dict[str, Source]
    mixing_seed: int  # of the order in which documents of several sources follow one another
    duplicates: Literal[
        "keep", "drop_exact", "drop_near"
    ]  # near: alike in most of their five-word runs (MinHash)
    tokenizer: Tokenizer
    # documents: one a row, end tokens behind it; stream: one after another, cut into rows; isolated: the
    # same, but none sees another
    rows: Literal["documents", "stream", "isolated"]
    row_length: int
    row_multiple: int  # a document's row is as long as the document, rounded up to a multiple of this
    held_out_share: float  # of the documents, chosen by their hash
    shard_tokens: int
    task_bytes: int  # of input, the work that is done and repeated as one; no say in the order of documents

    def __post_init__(self) -> None:
        self._check_sources()
        require(self.row_length >= 8, "row_length", "must be at least 8 tokens")
        require(self.row_multiple >= 1, "row_multiple", "must be at least 1")
        require(
            self.row_length % self.row_multiple == 0,
            "row_multiple",
            f"must divide row_length = {self.row_length}",
        )
        require(0.0 < self.held_out_share < 1.0, "held_out_share", "must lie between 0 and 1, both excluded")
        require(
            self.shard_tokens >= self.row_length,
            "shard_tokens",
            f"must hold at least one row of {self.row_length}",
        )
        require(self.task_bytes >= 2**20, "task_bytes", "must be at least 1 MiB = 1_048_576")

    def _check_sources(self) -> None:
        require(len(self.sources) > 0, "sources", "must hold at least one source, e.g. data=stories")
        for name in self.sources:
            require(
                re.fullmatch(r"[a-z0-9_-]+", name) is not None,
                "sources",
                f"has the name {name!r}: use a-z, 0-9, _ and -",
            )
        weights = [source.weight is not None for source in self.sources.values()]
        require(all(weights) or not any(weights), "sources", "must all have a weight, or none of them")
