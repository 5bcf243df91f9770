"""Ids <-> disk: flat token files, where documents end, and a manifest with the sha256 of every file.

train-00000.bin   little-endian uint16 (uint32 above 65,536 entries): documents with their end tokens
train-00000.idx   little-endian uint64: where each document ends, in tokens
manifest.json     sizes, digests, and what made them; no time, host or path: the same input, the same bytes
digests.json      of the manifest itself
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sunfish.config.convert import build
from sunfish.digests import check_digests, write_digests
from sunfish.errors import NOT_NEGATIVE, UserError, require, require_each
from sunfish.files import known_sha256, read_json, replacing, sha256, write_json
from sunfish.progress import track
from sunfish.text.tokenizer import Tokenizer, read_tokenizer, write_tokenizer

SPLITS = ("train", "heldout")
FORMAT = 2
SMALL_FILES = ("manifest.json", "tokenizer_config.json")  # the manifest has all others' digests
AGAIN = "; run the shard stage again"
OTHER_TOKENIZER = "is another tokenizer than the one that made the shards"
ALTERED = "was altered, or the manifest was: its sha256 is not the one that stands there"
CHECKED_BYTES = 2**28  # of a split: checked whenever it is opened; more only once for each state of a file


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """What a manifest says of one shard."""

    name: str
    tokens: int
    documents: int
    bytes: int  # of the texts in UTF-8
    bin_sha256: str
    idx_sha256: str

    def __post_init__(self) -> None:
        is_name = re.fullmatch(rf"({'|'.join(SPLITS)})-\d{{5,}}", self.name) is not None
        require(is_name, "name", "is no shard's, such as train-00000")
        require_each(self, NOT_NEGATIVE, "tokens", "documents", "bytes")


@dataclass(frozen=True, kw_only=True)
class SplitRecord:
    """What a manifest says of one split."""

    documents: int
    tokens: int
    bytes: int
    shards: tuple[ShardRecord, ...]

    def __post_init__(self) -> None:
        for key in ("documents", "tokens", "bytes"):
            total = sum(getattr(shard, key) for shard in self.shards)
            require(getattr(self, key) == total, key, f"is not the sum of its shards, {total}")


@dataclass(frozen=True, kw_only=True)
class SourceRecord:
    """What became of a source's documents."""

    documents_in: int
    bytes_in: int
    dropped: dict[str, int]  # by filter or reason
    dropped_tokens: dict[str, int]
    documents: int
    tokens: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """manifest.json."""

    format: int
    dtype: Literal["<u2", "<u4"]
    vocab_size: int
    end_id: int
    tokenizer_sha256: str
    sources: dict[str, SourceRecord]
    held_out_share: float
    duplicates: str
    mixing_seed: int
    shard_tokens: int
    splits: dict[str, SplitRecord]

    def __post_init__(self) -> None:
        require(0 <= self.end_id < self.vocab_size, "end_id", f"must lie below {self.vocab_size}")
        require(tuple(self.splits) == SPLITS, "splits", f"must hold {' and '.join(SPLITS)}")


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return the smallest of uint16 and uint32 that holds every id."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def write_shard(
    folder: Path, name: str, runs: Iterable[tuple[np.ndarray, np.ndarray, int]], dtype: np.dtype[Any]
) -> None:
    """Write one shard from runs of documents: their ids, each document's tokens, the bytes of their texts.

    Its record, which stands beside it as JSON, is written last."""
    lengths, num_bytes = [np.empty(0, np.int64)], 0
    with replacing(folder / f"{name}.bin") as temporary, temporary.open("wb") as file:
        for ids, sizes, size in runs:
            file.write(np.ascontiguousarray(ids, dtype).data)
            lengths.append(sizes)
            num_bytes += size
    ends = np.cumsum(np.concatenate(lengths)).astype("<u8")
    with replacing(folder / f"{name}.idx") as temporary:
        temporary.write_bytes(ends.tobytes())
    digests = {f"{kind}_sha256": sha256(folder / f"{name}.{kind}") for kind in ("bin", "idx")}
    tokens = int(ends[-1]) if len(ends) else 0
    record = ShardRecord(name=name, tokens=tokens, documents=len(ends), bytes=num_bytes, **digests)
    write_json(folder / f"{name}.json", asdict(record))


def read_record(folder: Path, name: str) -> ShardRecord:
    """Read the record of a shard that `write_shard` wrote."""
    return build(ShardRecord, read_json(path := folder / f"{name}.json"), f"{path}:")


def write_manifest(
    folder: Path, records: list[ShardRecord], tokenizer: Tokenizer, about: dict[str, Any]
) -> dict[str, Any]:
    """Write the tokenizer and the manifest beside the shards; return the manifest.

    Raises:
        UserError: no documents at all, or none on one side of the split.
    """
    splits: dict[str, Any] = {}
    for name in SPLITS:
        shards = [asdict(record) for record in records if record.name.startswith(f"{name}-")]
        splits[name] = {key: sum(shard[key] for shard in shards) for key in ("documents", "tokens", "bytes")}
        splits[name]["shards"] = shards
    total = sum(split["documents"] for split in splits.values())
    for name, split in splits.items():
        if split["documents"] == 0:
            advice = "more documents or another data.held_out_share are needed"
            raise UserError(f"of {total} documents none fell into the {name} split; {advice}")
    write_tokenizer(tokenizer, folder)
    manifest = {
        "format": FORMAT,
        "dtype": token_dtype(tokenizer.vocab_size).str,
        "vocab_size": tokenizer.vocab_size,
        "end_id": tokenizer.end_id,
        "tokenizer_sha256": sha256(folder / "tokenizer.json"),
        **about,
        "splits": splits,
    }
    write_json(folder / "manifest.json", manifest)
    write_digests(folder, SMALL_FILES)
    return manifest


@dataclass(frozen=True)
class Shard:
    """One opened shard, memory-mapped: its tokens, and where its documents end."""

    tokens: np.ndarray
    ends: np.ndarray


class Shards:
    """A folder of shards, opened and checked against its manifest.

    Raises:
        UserError: a missing, truncated or altered file, or a tokenizer that is not the shards' own, by name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        check_digests(folder, SMALL_FILES, AGAIN.lstrip("; "))
        self.manifest = read_json(folder / "manifest.json")  # as it is written, for pages and records
        self._read = _as_manifest(self.manifest, folder / "manifest.json")
        self.vocab_size, self.end_id = self._read.vocab_size, self._read.end_id
        self.dtype = np.dtype(self._read.dtype)
        _require_digest(folder / "tokenizer.json", self._read.tokenizer_sha256, OTHER_TOKENIZER, again=True)
        self.tokenizer = read_tokenizer(folder)

    def digest(self) -> str:
        """Return the manifest's sha256, the data's name in every later record."""
        return sha256(self.folder / "manifest.json")

    def split(self, name: str) -> list[Shard]:
        """Open one split's shards and check their sizes and digests.

        Digests of large splits are remembered: files are read again only when their size or time has changed.
        """
        records = self._read.splits[name].shards
        again = sum(self._sizes(record)["bin"] for record in records) <= CHECKED_BYTES
        return [self._open(record, again) for record in track(records, "check", "shards", len(records))]

    def verify(self) -> None:
        """Check the digest of every file again, however long that takes.

        Raises:
            UserError: a file is missing or was altered, by name.
        """
        records = [record for split in self._read.splits.values() for record in split.shards]
        for record in track(records, "verify", "shards", len(records)):
            self._open(record, again=True)

    def num_tokens(self, name: str) -> int:
        """Return a split's tokens, end tokens included."""
        return self._read.splits[name].tokens

    def num_bytes(self, name: str) -> int:
        """Return the UTF-8 bytes of a split's text."""
        return self._read.splits[name].bytes

    def _sizes(self, record: ShardRecord) -> dict[str, int]:
        return {"bin": record.tokens * self.dtype.itemsize, "idx": record.documents * 8}

    def _open(self, record: ShardRecord, again: bool) -> Shard:
        paths = {kind: self.folder / f"{record.name}.{kind}" for kind in ("bin", "idx")}
        for kind, size in self._sizes(record).items():
            found = paths[kind].stat().st_size if paths[kind].is_file() else None
            if found is not None and found != size:
                raise UserError(f"{paths[kind]}: has {found:,} bytes instead of {size:,}{AGAIN}")
            _require_digest(paths[kind], getattr(record, f"{kind}_sha256"), ALTERED, again)
        if record.tokens == 0:
            return Shard(np.empty(0, self.dtype), np.empty(0, "<u8"))
        return Shard(np.memmap(paths["bin"], self.dtype, mode="r"), np.memmap(paths["idx"], "<u8", mode="r"))


def _as_manifest(values: Any, path: Path) -> Manifest:
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise UserError(f"{path}: is not a manifest of shards of this version{AGAIN}")
    try:
        return build(Manifest, values, f"{path}:")
    except UserError as error:
        raise UserError(f"{error}; the manifest was altered{AGAIN}") from error


def _require_digest(path: Path, digest: str, otherwise: str, again: bool) -> None:
    """Refuse a file that is not what the manifest says; `again` reads it even if it was checked before."""
    if not path.is_file():
        raise UserError(f"{path}: no such file, but the manifest lists it{AGAIN}")
    if known_sha256(path, again) != digest:
        raise UserError(f"{path}: {otherwise}{AGAIN}")
