"""Ids <-> disk: flat token files, where documents end, and a manifest with the sha256 of every file.

train-00000.bin   little-endian uint16 (uint32 above 65,536 entries), documents one after another, each with its end token
train-00000.idx   little-endian uint64, where each document ends, in tokens
manifest.json     sizes, digests, and what made them; no time, host or path, so the same input gives the same bytes
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sunfish.files import read_json, replacing, write_json
from sunfish.problems import Problem
from sunfish.progress import Progress
from sunfish.text.corpus import is_held_out
from sunfish.text.tokenizer import Tokenizer, read_tokenizer, write_tokenizer

SPLITS = ("train", "heldout")
DOCUMENTS_PER_BATCH = 1000


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return the smallest of uint16 and uint32 that holds every id."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


@dataclass
class _Shard:
    """One pair of files being written."""

    folder: Path
    name: str
    dtype: np.dtype[Any]
    tokens: BinaryIO = field(init=False)
    ends: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tokens = (self.folder / f"{self.name}.bin").open("wb")

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def append(self, ids: list[int]) -> None:
        self.tokens.write(np.asarray(ids, self.dtype).tobytes())
        self.ends.append(len(self) + len(ids))

    def close(self) -> dict[str, Any]:
        self.tokens.close()
        (self.folder / f"{self.name}.idx").write_bytes(np.asarray(self.ends, "<u8").tobytes())
        digests = {f"{kind}_sha256": sha256(self.folder / f"{self.name}.{kind}") for kind in ("bin", "idx")}
        return {"name": self.name, "tokens": len(self), "documents": len(self.ends), **digests}


class _Split:
    """The shards of one split, begun anew when full."""

    def __init__(self, folder: Path, name: str, dtype: np.dtype[Any], shard_tokens: int) -> None:
        self.folder, self.name, self.dtype, self.shard_tokens = folder, name, dtype, shard_tokens
        self.num_bytes, self.done = 0, list[dict[str, Any]]()
        self.current = self._begin()

    def _begin(self) -> _Shard:
        return _Shard(self.folder, f"{self.name}-{len(self.done):05d}", self.dtype)

    def append(self, ids: list[int], num_bytes: int) -> None:
        if self.current.ends and len(self.current) + len(ids) > self.shard_tokens:
            self.done.append(self.current.close())
            self.current = self._begin()
        self.current.append(ids)
        self.num_bytes += num_bytes

    def close(self) -> dict[str, Any]:
        shards = [*self.done, self.current.close()]
        sums = {key: sum(shard[key] for shard in shards) for key in ("documents", "tokens")}
        return {**sums, "bytes": self.num_bytes, "shards": shards}


def write_shards(
    out_dir: Path,
    documents: Iterable[str],
    tokenizer: Tokenizer,
    *,
    held_out_share: float,
    shard_tokens: int,
    max_tokens: int | None = None,
    made_of: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write documents as token shards, replacing `out_dir` only when all is written; return the manifest.

    Raises:
        Problem: no documents at all, or none left on one side of the split.
    """
    with replacing(out_dir) as folder:
        folder.mkdir()
        dtype = token_dtype(tokenizer.vocab_size)
        splits = {name: _Split(folder, name, dtype, shard_tokens) for name in SPLITS}
        total = 0
        with Progress("shard", None, "documents") as progress:
            for batch in _batched(documents, DOCUMENTS_PER_BATCH):
                for document, ids in zip(batch, tokenizer.encode_batch(batch), strict=True):
                    if max_tokens is not None and total >= max_tokens:
                        break
                    side = "heldout" if is_held_out(document, held_out_share) else "train"
                    splits[side].append([*ids, tokenizer.end_id], len(document.encode()))
                    total += len(ids) + 1
                progress.add(len(batch), f"{total:,} tokens")
                if max_tokens is not None and total >= max_tokens:
                    break
        write_tokenizer(tokenizer, folder)
        manifest: dict[str, Any] = {
            "format": 1,
            "dtype": dtype.str,
            "vocab_size": tokenizer.vocab_size,
            "end_id": tokenizer.end_id,
            "tokenizer_sha256": sha256(folder / "tokenizer.json"),
            "made_of": made_of or {},
            "splits": {name: split.close() for name, split in splits.items()},
        }
        _require_documents(manifest["splits"])
        write_json(folder / "manifest.json", manifest)
    return manifest


def _require_documents(splits: dict[str, Any]) -> None:
    counts = {name: split["documents"] for name, split in splits.items()}
    if sum(counts.values()) == 0:
        raise Problem("the corpus is empty: no document holds any text; look at data.source")
    for name, count in counts.items():
        if count == 0:
            advice = "more documents or another data.held_out_share are needed"
            raise Problem(f"of {sum(counts.values())} documents none fell into the {name} split; {advice}")


def _batched(items: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def sha256(path: Path) -> str:
    """Return a file's digest in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Shard:
    """One opened shard: tokens memory-mapped, document ends in memory."""

    tokens: np.ndarray
    ends: np.ndarray


class Shards:
    """A folder of shards, opened and checked against its manifest.

    Raises:
        Problem: a missing, truncated or altered file, or a tokenizer that is not the shards' own, by name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_json(folder / "manifest.json")
        if not isinstance(self.manifest, dict) or self.manifest.get("format") != 1:
            raise Problem(f"{folder / 'manifest.json'}: is not a manifest of shards of this version; run the shard stage again")
        self.vocab_size: int = self.manifest["vocab_size"]
        self.end_id: int = self.manifest["end_id"]
        self._check("tokenizer.json", self.manifest["tokenizer_sha256"], "is another tokenizer than the one that made the shards")
        self.tokenizer = read_tokenizer(folder)

    def digest(self) -> str:
        """Return the manifest's sha256, the data's name in every later record."""
        return sha256(self.folder / "manifest.json")

    def split(self, name: str) -> list[Shard]:
        """Open one split's shards, checking sizes and digests."""
        return [self._open(record) for record in self.manifest["splits"][name]["shards"]]

    def num_tokens(self, name: str) -> int:
        """Return a split's tokens, end tokens included."""
        return int(self.manifest["splits"][name]["tokens"])

    def num_bytes(self, name: str) -> int:
        """Return the UTF-8 bytes of a split's text."""
        return int(self.manifest["splits"][name]["bytes"])

    def _open(self, record: dict[str, Any]) -> Shard:
        dtype = np.dtype(self.manifest["dtype"])
        sizes = {"bin": record["tokens"] * dtype.itemsize, "idx": record["documents"] * 8}
        for kind, size in sizes.items():
            path = self.folder / f"{record['name']}.{kind}"
            if path.is_file() and path.stat().st_size != size:
                raise Problem(f"{path}: has {path.stat().st_size:,} bytes instead of {size:,}; run the shard stage again")
            self._check(path.name, record[f"{kind}_sha256"], "was altered: its sha256 is not the manifest's")
        if record["tokens"] == 0:
            return Shard(np.empty(0, dtype), np.empty(0, "<u8"))
        tokens = np.memmap(self.folder / f"{record['name']}.bin", dtype, mode="r")
        return Shard(tokens, np.fromfile(self.folder / f"{record['name']}.idx", "<u8"))

    def _check(self, name: str, digest: str, otherwise: str) -> None:
        path = self.folder / name
        if not path.is_file():
            raise Problem(f"{path}: no such file, but the manifest lists it; run the shard stage again")
        if sha256(path) != digest:
            raise Problem(f"{path}: {otherwise}; run the shard stage again")
