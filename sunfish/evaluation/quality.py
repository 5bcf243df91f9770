"""How good sampled text is: the story oracle's verdict, and counts that need no oracle."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from sunfish.text.stories import judge


def story_metrics(texts: Sequence[str]) -> dict[str, float]:
    """Return the share of sentences valid under the grammar and of stories consistent from the first word to the last."""
    verdicts = [judge(text) for text in texts]
    sentences = [valid for verdict in verdicts for valid in verdict.valid]
    return {
        "sentences_valid": float(np.mean(sentences)) if sentences else 0.0,
        "stories_consistent": float(np.mean([verdict.consistent for verdict in verdicts])),
    }


def text_metrics(rows: Sequence[Sequence[int]], texts: Sequence[str]) -> dict[str, float]:
    """Return what any text shows: the share that is unique, unigram entropy in nats, distinct and repeated pairs.

    `rows` are token ids up to the first end token.
    """
    entropies = [_entropy(Counter(row)) for row in rows if len(row)]
    pairs = [list(itertools.pairwise(row)) for row in rows]
    flat = [pair for row in pairs for pair in row]
    repeated = [1 - len(set(row)) / len(row) for row in pairs if row]
    return {
        "unique": len(set(texts)) / len(texts),
        "entropy_per_sample_nats": float(np.mean(entropies)) if entropies else 0.0,
        "entropy_corpus_nats": _entropy(Counter(token for row in rows for token in row)),
        "distinct_2": len(set(flat)) / max(1, len(flat)),
        "rep_2": float(np.mean(repeated)) if repeated else 0.0,
        "tokens_per_sample": float(np.mean([len(row) for row in rows])),
    }


def _entropy(counts: Counter[int]) -> float:
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total) for n in counts.values()) if total else 0.0
