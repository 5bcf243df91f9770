"""How good sampled text is: the story oracle's verdict, and counts that need no oracle."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from functools import cache, lru_cache

import numpy as np

from sunfish.text.lexicon import NAMES, WORDS, Grammar
from sunfish.text.shards import Shards
from sunfish.text.stories import judge, options, split_sentences, write_stories

REFERENCE_STORIES, REFERENCE_SEED = 5_000, 2**32  # of the grammar; no corpus is written from so large a seed
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
DRAWN = {"people": "[name]", "objects": "[object]"}
PEOPLE, OBJECTS = frozenset(itertools.chain(*NAMES.values())), frozenset(WORDS["object"])

Shares = dict[Hashable, float]


def story_metrics(texts: Sequence[str], grammar: Grammar) -> dict[str, float]:
    """Return valid sentences, consistent stories, and the total variation from the grammar's frequencies."""
    verdicts = [judge(text, grammar) for text in texts]
    sentences = [valid for verdict in verdicts for valid in verdict.valid]
    ours, grammars = count_story_words(texts, grammar), _grammar_shares(grammar)
    return {
        "sentences_valid": float(np.mean(sentences)) if sentences else 0.0,
        "stories_consistent": float(np.mean([verdict.consistent for verdict in verdicts])),
        **{f"{k}_total_variation": total_variation(_shares(ours[k]), grammars[k]) for k in grammars},
    }


def count_story_words(texts: Sequence[str], grammar: Grammar) -> dict[str, Counter[Hashable]]:
    """Count who each story is about, the first object it names, and the forms of its sentences."""
    rows = [text.split() for text in texts]
    found: dict[str, Iterable[Hashable]] = {
        "people": (next(filter(PEOPLE.__contains__, row), None) for row in rows),
        "objects": (next(filter(OBJECTS.__contains__, row), None) for row in rows),
        "forms": (_form_of(" ".join(words), grammar) for text in texts for words in split_sentences(text)),
    }
    return {kind: Counter(one for one in ones if one is not None) for kind, ones in found.items()}


@cache
def _grammar_shares(grammar: Grammar) -> dict[str, Shares]:
    """Return how often the grammar says what: people and objects exactly, forms in stories that it wrote."""
    drawn: dict[str, Shares] = {
        kind: {o.words[0]: o.probability for o in options(slot, {})} for kind, slot in DRAWN.items()
    }
    stories = list(itertools.islice(write_stories(REFERENCE_SEED, grammar=grammar), REFERENCE_STORIES))
    return {**drawn, "forms": _shares(count_story_words(stories, grammar)["forms"])}


def _shares(counts: Counter[Hashable]) -> Shares:
    return {key: count / counts.total() for key, count in counts.items()}


@cache
def _form_of(sentence: str, grammar: Grammar) -> int | None:
    """Return the number of the first form a sentence may have by itself, or None."""
    patterns = enumerate(_patterns(grammar))
    return next((number for number, pattern in patterns if pattern.fullmatch(sentence)), None)


@cache
def _patterns(grammar: Grammar) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(" ".join(map(_pattern, form.parts))) for form in grammar.forms)


def _pattern(part: str) -> str:
    if part[0] not in "[{":
        return re.escape(part)
    return "(?:" + "|".join(sorted({re.escape(" ".join(option.words)) for option in options(part, {})})) + ")"


def total_variation(ours: Shares, theirs: Shares) -> float:
    """Return half the sum of differences between two distributions; 1 where one is empty."""
    if not ours or not theirs:
        return 1.0
    return 0.5 * sum(abs(ours.get(key, 0.0) - theirs.get(key, 0.0)) for key in ours | theirs)


def sentences_of(text: str) -> list[str]:
    """Return the sentences of any text: what ends in a full stop, an exclamation or a question mark."""
    return [sentence for sentence in SENTENCE_END.split(text.strip()) if sentence]


@lru_cache(maxsize=1)
def training_sentences(shards: Shards) -> frozenset[str]:
    """Return every sentence of the training text."""
    decode, train = shards.tokenizer.decode_row, shards.split("train")
    documents = (part.tolist() for shard in train for part in np.split(shard.tokens, shard.ends))
    return frozenset(sentence for ids in documents for sentence in sentences_of(decode(ids)))


def text_metrics(rows: Sequence[Sequence[int]], texts: Sequence[str]) -> dict[str, float]:
    """Return what any text shows, of `rows` of token ids: how varied they are, how much they repeat."""
    entropies = [_entropy(Counter(row)) for row in rows if len(row)]
    pairs = [list(itertools.pairwise(row)) for row in rows]
    flat = [pair for row in pairs for pair in row]
    triples = [triple for row in rows for triple in zip(row, row[1:], row[2:], strict=False)]
    repeated = [1 - len(set(row)) / len(row) for row in pairs if row]
    return {
        "unique": len(set(texts)) / len(texts),
        "entropy_per_sample_nats": float(np.mean(entropies)) if entropies else 0.0,
        "entropy_corpus_nats": _entropy(Counter(token for row in rows for token in row)),
        "distinct_2": len(set(flat)) / max(1, len(flat)),
        "distinct_3": len(set(triples)) / max(1, len(triples)),
        "rep_2": float(np.mean(repeated)) if repeated else 0.0,
        "tokens_per_sample": float(np.mean([len(row) for row in rows])),
    }


def _entropy(counts: Counter[int]) -> float:
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total) for n in counts.values()) if total else 0.0
