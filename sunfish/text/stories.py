"""The embedded corpus: a grammar of English stories, its exact probabilities, and its parser (the oracle).

One table of sentence forms and one function `options` (what a slot may say, and how likely, given what the
story has said so far) define the language. Writing, scoring, parsing and the entropy all walk the same two.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, count
from typing import TypeVar

import numpy as np

from sunfish.text.lexicon import SHORT, WORDS, Form, Grammar
from sunfish.text.slots import Bindings, Option, options

T = TypeVar("T", Form, Option)
Facts = frozenset[str]  # what is the case: animal, pet, friend, near, there, has, lost (`lexicon` tells all)


@dataclass(frozen=True)
class Verdict:
    """What the oracle says of one text.

    `breaks_at` is the index of the first word that cannot continue any story (None if consistent), and
    `log_prob_nats` the exact log-probability under the grammar (-inf if not consistent)."""

    valid: tuple[bool, ...]  # per sentence: is it well formed by itself?
    consistent: bool
    breaks_at: int | None
    log_prob_nats: float


@cache
def forms_at(
    grammar: Grammar, position: int, num_sentences: int, facts: Facts, last: Form | None
) -> tuple[Form, ...]:
    """Return the forms that may stand at `position`; never the same form twice running."""
    parts = {0: grammar.openings, num_sentences - 1: grammar.closings}
    part = parts.get(position, grammar.middles)
    return tuple(f for f in part if f.needs <= facts and not f.lacks & facts and f is not last)


@cache
def _cumulative(choices: tuple[Form, ...] | tuple[Option, ...]) -> tuple[float, ...]:
    return tuple(accumulate(c.weight if isinstance(c, Form) else c.probability for c in choices))


def _draw(choices: tuple[T, ...], rng: np.random.Generator) -> T:
    sums = _cumulative(choices)
    return choices[bisect(sums, rng.random() * sums[-1])]


def write_story(rng: np.random.Generator, grammar: Grammar = SHORT) -> str:
    """Return one story: lower case, words and full stops between single spaces."""
    sums = list(accumulate(grammar.num_sentences.values()))
    num_sentences = list(grammar.num_sentences)[bisect(sums, rng.random())]
    known: Bindings = {}
    facts: Facts = frozenset()
    last: Form | None = None
    words: list[str] = []
    for position in range(num_sentences):
        last = _draw(forms_at(grammar, position, num_sentences, facts, last), rng)
        for part in last.parts:
            if part[0] not in "[{":
                words.append(part)
                continue
            chosen = _draw(options(part, known), rng)
            words.extend(chosen.words)
            known.update(chosen.learns)
        facts = last.after(facts)
    return " ".join(words)


def write_stories(seed: int, first: int = 0, grammar: Grammar = SHORT) -> Iterator[str]:
    """Yield stories from the `first` on, without end; story k depends on (seed, k) only."""
    for index in count(first):
        yield write_story(np.random.default_rng((seed, index)), grammar)


@dataclass(frozen=True)
class _Match:
    log_prob_nats: float
    known: Bindings


def _match(parts: tuple[str, ...], words: list[str], known: Bindings) -> tuple[_Match | None, int]:
    """Match a form's parts against a sentence; also return how many words agree at best."""
    if not parts:
        return (_Match(0.0, known), 0) if not words else (None, 0)
    reached, best = 0, None
    head = parts[0]
    choices = options(head, known) if head[0] in "[{" else (Option((head,), 1.0),)
    for choice in choices:
        length = len(choice.words)
        agree = next((i for i, (a, b) in enumerate(zip(choice.words, words, strict=False)) if a != b), None)
        if agree is not None or length > len(words):
            reached = max(reached, len(words) if agree is None else agree)
            continue
        rest, rest_reached = _match(parts[1:], words[length:], {**known, **dict(choice.learns)})
        reached = max(reached, length + rest_reached)
        if rest is not None:
            best = _Match(rest.log_prob_nats + math.log(choice.probability), rest.known)
    return best, reached


@cache
def _is_valid(sentence: str, grammar: Grammar) -> bool:
    words = sentence.split()
    return any(_match(form.parts, words, {})[0] for form in grammar.forms)


def split_sentences(text: str) -> list[list[str]]:
    """Cut a text after each full stop; the last piece may lack one."""
    sentences: list[list[str]] = [[]]
    for word in text.split():
        sentences[-1].append(word)
        if word == ".":
            sentences.append([])
    return sentences if sentences[-1] else sentences[:-1]


def judge(text: str, grammar: Grammar = SHORT) -> Verdict:
    """Return the oracle's verdict on a text."""
    sentences = split_sentences(text)
    valid = tuple(_is_valid(" ".join(s), grammar) for s in sentences)
    if not sentences:
        return Verdict(valid, False, 0, -math.inf)
    known: Bindings = {}
    facts: Facts = frozenset()
    last: Form | None = None
    seen, log_prob = 0, math.log(grammar.num_sentences.get(len(sentences), 1.0))
    for position, words in enumerate(sentences):
        forms = forms_at(grammar, position, max(len(sentences), min(grammar.num_sentences)), facts, last)
        total, reached = sum(f.weight for f in forms), 0
        matched: tuple[Form, _Match] | None = None
        for form in forms:
            match, agrees = _match(form.parts, words, known)
            reached = max(reached, agrees)
            if match:
                matched = form, match
        if matched is None or position >= max(grammar.num_sentences):
            return Verdict(valid, False, seen + (reached if matched is None else 0), -math.inf)
        last, match = matched
        log_prob += math.log(last.weight / total) + match.log_prob_nats
        known, facts, seen = match.known, last.after(facts), seen + len(words)
    if len(sentences) not in grammar.num_sentences:  # it stops before a story may
        return Verdict(valid, False, seen, -math.inf)
    return Verdict(valid, True, None, log_prob)


def entropy_nats(grammar: Grammar = SHORT) -> float:
    """Return the exact entropy of one story: no model's mean loss per story can be lower.

    What a slot draws has no say in what may follow (only the facts have), so the chain rule over (facts, last
    form, sentences left) is exact; the tests hold it against the mean of -log p."""
    lengths = grammar.num_sentences.items()
    inner = sum(p * _entropy_from(grammar, 0, n, frozenset(), None) for n, p in lengths)
    return sum(-p * math.log(p) for _, p in lengths) + inner


@cache
def _entropy_from(
    grammar: Grammar, position: int, num_sentences: int, facts: Facts, last: Form | None
) -> float:
    if position == num_sentences:
        return 0.0
    forms = forms_at(grammar, position, num_sentences, facts, last)
    total, nats = sum(f.weight for f in forms), 0.0
    for f in forms:
        rest = _entropy_from(grammar, position + 1, num_sentences, f.after(facts), f)
        nats += (f.weight / total) * (-math.log(f.weight / total) + _slots_entropy(f, facts) + rest)
    return nats


@cache
def _slots_entropy(form: Form, facts: Facts) -> float:
    """Entropy of a form's slots; by symmetry any one story with these facts tells it."""
    known: Bindings = {} if not facts else {"name": "anna", "gender": "she"}
    known |= {kind: words[0] for kind, words in WORDS.items() if facts} | ({"friend": "tom"} if facts else {})
    nats = 0.0
    for part in form.parts:
        if part[0] in "[{":
            choices = options(part, known)
            nats -= sum(o.probability * math.log(o.probability) for o in choices)
            known.update(choices[0].learns)
    return nats
