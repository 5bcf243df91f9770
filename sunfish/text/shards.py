"""Ids <-> disk: flat token files, where documents end, and a manifest with the sha256 of every file.

train-00000.bin   little-endian uint16 (uint32 above 65,536 entries), documents one after another, each with
its end token train-00000.idx   little-endian uint64, where each document ends, in tokens manifest.json
sizes, digests, and what made them; no time, host or path, so the same input gives the same bytes"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sunfish.errors import UserError
from sunfish.files import read_json, replacing, write_json
from sunfish.progress import track
from sunfish.text.tokenizer import Tokenizer, read_tokenizer, write_tokenizer

SPLITS = ("train", "heldout")
FORMAT = 2
CHECKED_BYTES = 2**28  # of a split: their digests are checked whenever it is opened; more only by `verify`


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return the smallest of uint16 and uint32 that holds every id."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def write_shard(
    folder: Path, name: str, runs: Iterable[tuple[np.ndarray, np.ndarray, int]], dtype: np.dtype[Any]
) -> dict[str, Any]:
    """Write one shard from runs of documents (their ids, each document's tokens, the bytes of their texts);
    return its record.

    The record, which also stands beside the shard as JSON, is written last.
    """
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
    record = {
        "name": name,
        "tokens": int(ends[-1]) if len(ends) else 0,
        "documents": len(ends),
        "bytes": num_bytes,
        **digests,
    }
    write_json(folder / f"{name}.json", record)
    return record


def write_manifest(
    folder: Path, records: list[dict[str, Any]], tokenizer: Tokenizer, about: dict[str, Any]
) -> dict[str, Any]:
    """Write the tokenizer and the manifest beside the shards; return the manifest.

    Raises:
        UserError: no documents at all, or none on one side of the split.
    """
    splits: dict[str, Any] = {}
    for name in SPLITS:
        shards = [record for record in records if record["name"].startswith(f"{name}-")]
        splits[name] = {
            key: sum(shard[key] for shard in shards) for key in ("documents", "tokens", "bytes")
        } | {"shards": shards}
    _require_documents(splits)
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
    return manifest


def _require_documents(splits: dict[str, Any]) -> None:
    counts = {name: split["documents"] for name, split in splits.items()}
    for name, count in counts.items():
        if count == 0:
            advice = "more documents or another data.held_out_share are needed"
            raise UserError(f"of {sum(counts.values())} documents none fell into the {name} split; {advice}")


def sha256(path: Path) -> str:
    """Return a file's digest in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
        self.manifest = read_json(folder / "manifest.json")
        if not isinstance(self.manifest, dict) or self.manifest.get("format") != FORMAT:
            raise UserError(
                f"{folder / 'manifest.json'}: is not a manifest of shards of this version; run the shard stage again"
            )
        self.vocab_size: int = self.manifest["vocab_size"]
        self.end_id: int = self.manifest["end_id"]
        self._check(
            "tokenizer.json",
            self.manifest["tokenizer_sha256"],
            "is another tokenizer than the one that made the shards",
        )
        self.tokenizer = read_tokenizer(folder)

    def digest(self) -> str:
        """Return the manifest's sha256, the data's name in every later record."""
        return sha256(self.folder / "manifest.json")

    def split(self, name: str) -> list[Shard]:
        """Open one split's shards, checking their sizes, and their digests too where that takes no longer
        than a moment.
        """
        records = self.manifest["splits"][name]["shards"]
        digests = sum(self._sizes(record)["bin"] for record in records) <= CHECKED_BYTES
        return [self._open(record, digests) for record in records]

    def verify(self) -> None:
        """Check the digest of every file, however long that takes.

        Raises:
            UserError: a file is missing or was altered, by name.
        """
        records = [record for split in self.manifest["splits"].values() for record in split["shards"]]
        for record in track(records, "verify", "shards", len(records)):
            self._open(record, digests=True)

    def num_tokens(self, name: str) -> int:
        """Return a split's tokens, end tokens included."""
        return int(self.manifest["splits"][name]["tokens"])

    def num_bytes(self, name: str) -> int:
        """Return the UTF-8 bytes of a split's text."""
        return int(self.manifest["splits"][name]["bytes"])

    def _sizes(self, record: dict[str, Any]) -> dict[str, int]:
        return {
            "bin": record["tokens"] * np.dtype(self.manifest["dtype"]).itemsize,
            "idx": record["documents"] * 8,
        }

    def _open(self, record: dict[str, Any], digests: bool) -> Shard:
        for kind, size in self._sizes(record).items():
            path = self.folder / f"{record['name']}.{kind}"
            found = path.stat().st_size if path.is_file() else None
            if found is None:
                raise UserError(f"{path}: no such file, but the manifest lists it; run the shard stage again")
            if found != size:
                raise UserError(f"{path}: has {found:,} bytes instead of {size:,}; run the shard stage again")
            if digests:
                self._check(
                    path.name, record[f"{kind}_sha256"], "was altered: its sha256 is not the manifest's"
                )
        dtype = np.dtype(self.manifest["dtype"])
        if record["tokens"] == 0:
            return Shard(np.empty(0, dtype), np.empty(0, "<u8"))
        tokens = np.memmap(self.folder / f"{record['name']}.bin", dtype, mode="r")
        return Shard(tokens, np.memmap(self.folder / f"{record['name']}.idx", "<u8", mode="r"))

    def _check(self, name: str, digest: str, otherwise: str) -> None:
        path = self.folder / name
        if not path.is_file():
            raise UserError(f"{path}: no such file, but the manifest lists it; run the shard stage again")
        if sha256(path) != digest:
            raise UserError(f"{path}: {otherwise}; run the shard stage again")
