"""Which documents say again what another has said: exactly (by hash), or nearly (MinHash), over all tasks;
datatrove's steps.

Of equal documents the first is kept; of near ones, one of each cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.dedup import exact_dedup, minhash
from datatrove.utils.word_tokenizers import WordTokenizer

from sunfish.files import replacing
from sunfish.sharding.engine import Engine

exact_dedup.tqdm = minhash.tqdm = lambda items, **_: items  # their bars would break ours

LAST_PRIORITY = 65_535  # datatrove keeps the document with the highest, from 1 up
LONGEST_WORD = 100  # characters; what is longer, such as text without spaces, is compared by its characters
BYTES_PER_FINDER = 4 * 2**30  # of input: what one task that compares hashes has to do with
BUFFERED = 1000  # lines

# Letters of scripts that put no spaces between words: Thai to Burmese, Khmer, kana, Han.
UNSPACED = "\u0e00-\u109f\u1780-\u17ff\u1950-\u1aaf\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
UNSPACED += "\U00020000-\U0003ffff"
WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")


class Words(WordTokenizer):
    """What stands between white space, and each letter of a script without spaces; needs no model."""

    def word_tokenize(self, text: str) -> list[str]:
        """Return the words."""
        words = WORD.findall(text)
        return [part for word in words for part in ([word] if len(word) <= LONGEST_WORD else word)]

    def sent_tokenize(self, text: str) -> list[str]:
        """Return the text as one sentence."""
        return [text]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """Return the span of that sentence."""
        return [(0, len(text))]


class _ExactSignatures(exact_dedup.ExactDedupSignature):
    """Write a task's hashes and pass its documents on; earlier tasks' documents come first."""

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        self.config.document_priority = _Priority(rank)
        signatures: list[Any] = []
        for number, document in enumerate(data):
            signatures += self.get_hashes(document, number)
            yield document
        self.save_hashes(rank, signatures)


class _Priority:
    def __init__(self, rank: int) -> None:
        self.priority = max(1, LAST_PRIORITY - rank)

    def __call__(self, document: Document) -> int:
        return self.priority


def _text_of(document: Document) -> bytes:
    text: bytes = document.metadata["utf8"]
    return text


class Duplicates:
    """How duplicates are found for one plan: steps that follow the tokenizing, and stages of their own."""

    def __init__(self, which: str, folder: Path, num_bytes: int) -> None:
        self.which, self.folder = which, folder
        self.finders = min(64, 1 + num_bytes // BYTES_PER_FINDER)
        self.exact = exact_dedup.ExactDedupConfig(content_getter=_text_of)
        self.near = minhash.MinhashConfig()

    def signatures(self) -> list[Any]:
        """Return the steps behind the tokenizing that write what documents are compared by."""
        if self.which == "keep":
            return []
        steps: list[Any] = [_ExactSignatures(self._path("exact"), self.exact, self.finders)]
        if self.which == "drop_near":
            steps.append(minhash.MinhashDedupSignature(self._path("near"), self.near, Words()))
        return steps

    def find(self, engine: Engine, within: dict[int, int]) -> None:
        """Find duplicates among the documents that count: of each task, so many from its first on."""
        if self.which == "keep":
            return
        self._forget_others(within)
        folders = self._paths("exact", "exact_found")
        step: Any = exact_dedup.ExactFindDedups(*folders, self.exact, lines_to_buffer=BUFFERED)
        engine.run("exact_duplicates", [step], self.finders, _nothing, "documents")
        if self.which == "drop_near":
            folders = self._paths("near", "near_pairs")
            step = minhash.MinhashDedupBuckets(*folders, config=self.near, lines_to_buffer=BUFFERED)
            engine.run("near_duplicates", [step], self.near.num_buckets, _nothing, "documents")
            folders = self._paths("near_pairs", "near_found")
            step = minhash.MinhashDedupCluster(
                *folders, self.near, save_cluster_id=True, lines_to_buffer=BUFFERED
            )
            engine.run("near_clusters", [step], 1, _nothing, "documents")

    def _forget_others(self, within: dict[int, int]) -> None:
        """Cut signatures to the documents that count: no other may outdo one that is kept."""
        near = np.dtype([("hashes", "<u8", self.near.hashes_per_bucket), ("doc", "<u4")])
        exact = exact_dedup.get_sig_dtype(self.exact.hash_config)
        for pattern, dtype in (("exact/*/*.c4_sig", exact), ("near/*/*.minhash.sig", near)):
            for path in self.folder.glob(pattern):
                signatures = np.fromfile(path, dtype)
                counting = signatures["doc"] < within.get(int(path.name.split(".")[0]), 0)
                if not counting.all():
                    with replacing(path) as temporary:
                        temporary.write_bytes(signatures[counting].tobytes())

    def of_task(self, rank: int, num_documents: int) -> dict[str, np.ndarray]:
        """Return, by kind, which of a task's documents are to be dropped, (num_documents,)."""
        if self.which == "keep":
            return {}
        exact = np.zeros(num_documents, bool)
        for path in sorted((self.folder / "exact_found").glob(f"*/{rank:05d}.*dup*")):
            exact[np.fromfile(path, "<u4")] = True
        if self.which == "drop_exact":
            return {"exact_duplicate": exact}
        removed, clustered = np.zeros(num_documents, bool), np.zeros(num_documents, bool)
        removed[self._found(rank, "remove")] = True
        clustered[self._found(rank, "clusters")[::2]] = True  # pairs of document and cluster
        # equal documents share a cluster, which keeps one, unless they are too short for one
        dropped = removed | (exact & ~clustered)
        return {"exact_duplicate": dropped & exact, "near_duplicate": dropped & ~exact}

    def _found(self, rank: int, kind: str) -> np.ndarray:
        path = self.folder / "near_found" / f"{rank:06d}.{kind}"
        return np.fromfile(path, "<u4") if path.is_file() else np.empty(0, "<u4")

    def _path(self, name: str) -> str:
        return str((self.folder / name).resolve())

    def _paths(self, *names: str) -> tuple[str, ...]:
        return tuple(map(self._path, names))


def _nothing() -> int:
    return 0
