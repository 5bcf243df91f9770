"""What a look at the data needs to know about texts, counted while they pass and merged later."""

from __future__ import annotations

import heapq
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

import numpy as np

HOSTS_HELD, HOSTS_KEPT = 100_000, 1_000
SAMPLES, SAMPLE_CHARACTERS = 8, 600
AT_ONCE = 2**20  # bytes or tokens
CONTROL = bytes(b for b in range(32) if b not in b"\t\n\r") + b"\x7f"
ASCII = bytes(range(128))
REPLACEMENT = "\N{REPLACEMENT CHARACTER}".encode()
SPREAD = 0x9E3779B97F4A7C15  # samples by another order than the split's, or all would be held out


class TextCounts:
    """Counts over a task's documents."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.odd = Counter({"control_bytes": 0, "replacement_characters": 0, "non_ascii_bytes": 0})
        self.hosts: Counter[str] = Counter()
        self.samples: list[tuple[int, str]] = []  # a heap with the last in order at its top
        self._unigrams = np.zeros(vocab_size, np.uint64)
        self._waiting: list[np.ndarray] = []
        self._num_waiting = 0

    def add(self, document: str, text: bytes, ids: np.ndarray, place: int, url: object) -> None:
        """Count a document: as text, as UTF-8, as ids with the end token, with its place by its hash."""
        for start in range(0, len(text), AT_ONCE):
            part = text[start : start + AT_ONCE]
            self.odd["control_bytes"] += len(part) - len(part.translate(None, CONTROL))
            self.odd["non_ascii_bytes"] += len(part.translate(None, ASCII))
        self.odd["replacement_characters"] += text.count(REPLACEMENT)
        if url and isinstance(url, str):  # other kinds of values have no host
            self.hosts[host_of(url)] += 1
            if len(self.hosts) > HOSTS_HELD:
                self.hosts = Counter(dict(self.hosts.most_common(HOSTS_HELD // 2)))
        order = place * SPREAD % 2**64
        if len(self.samples) < SAMPLES or -order > self.samples[0][0]:
            entry = (-order, document[:SAMPLE_CHARACTERS])
            (heapq.heappush if len(self.samples) < SAMPLES else heapq.heappushpop)(self.samples, entry)
        for start in range(0, len(ids), AT_ONCE):
            self._waiting.append(ids[start : start + AT_ONCE])
            self._num_waiting += len(self._waiting[-1])
            if self._num_waiting >= AT_ONCE:
                self._count_ids()

    def _count_ids(self) -> None:
        if self._waiting:
            counts = np.bincount(np.concatenate(self._waiting), minlength=self.vocab_size)
            self._unigrams += counts.astype(np.uint64)
        self._waiting, self._num_waiting = [], 0

    def unigrams(self) -> np.ndarray:
        """Return how often each id occurs, (vocab,)."""
        self._count_ids()
        return self._unigrams

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the unigrams, for JSON."""
        return {
            "odd": dict(self.odd),
            "hosts": _most_common(self.hosts),
            "samples": [[-order, text] for order, text in sorted(self.samples, reverse=True)],
        }


def host_of(url: str) -> str:
    """Return a URL's host, or nothing where it is no URL."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def merge_counts(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the counts of several tasks as one's."""
    odd, hosts = Counter[str](), Counter[str]()
    for part in parts:
        odd.update(part["odd"])
        hosts.update(part["hosts"])
    samples = sorted(tuple(sample) for part in parts for sample in part["samples"])[:SAMPLES]
    return {"odd": dict(odd), "hosts": _most_common(hosts), "samples": [list(sample) for sample in samples]}


def _most_common(hosts: Counter[str]) -> dict[str, int]:
    """Return the most frequent hosts, like ones by name: the order of tasks has no say."""
    return dict(sorted(hosts.items(), key=lambda item: (-item[1], item[0]))[:HOSTS_KEPT])
