"""One text while it is sampled, as people may look at it: a frame a call, and one for each correction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from sunfish.sampling.loop import Conditioning, Event, SamplerBackend, SamplerPlan, Snapshot, sample_loop
from sunfish.text.tokenizer import Tokenizer

Kind = Literal["denoise", "check", "correct"]
Shown = Callable[[np.ndarray], np.ndarray]  # a row's ids -> the positions that people are shown


@dataclass(frozen=True, eq=False)
class Frame:
    """The text as it stands after a call: its words (joined they are the text), and what became of each."""

    kind: Kind
    draft: int  # from 1
    calls: int
    corrected: int
    words: list[str]  # with their spaces
    probability: np.ndarray  # (words,), 1 where known
    known: np.ndarray  # bool, (words,): given, kept or accepted
    rejected: np.ndarray  # bool, (words,), by the check just made
    is_last: bool = False

    @property
    def text(self) -> str:
        """Return the words as one text."""
        return "".join(self.words)


def frames(
    plan: SamplerPlan, backend: SamplerBackend, conditioning: Conditioning, tokenizer: Tokenizer, shown: Shown
) -> Iterator[Frame]:
    """Yield the frames of one text; a check that corrects a token gives two, before and after."""
    before: Snapshot | None = None
    last: Frame | None = None
    corrected = 0
    for calls, event in enumerate(sample_loop(plan, backend, conditioning), 1):
        now = backend.snapshot()
        for kind, seen in _outcomes(event, before, now):
            corrected += kind == "correct"
            if last is not None:
                yield last
            last = _frame(kind, seen, tokenizer, shown, event.round + 1, (calls, corrected))
        before = now
    if last is not None:
        yield replace(last, is_last=True)


def _outcomes(event: Event, before: Snapshot | None, now: Snapshot) -> Iterator[tuple[Kind, Snapshot]]:
    """Return what is to be seen after a call: a check is seen on the draft that it reads."""
    if event.kind == "denoise" or before is None:
        yield "denoise", now._replace(rejected=np.zeros_like(now.known))
        return
    yield "check", now._replace(tokens=before.tokens)
    if not np.array_equal(before.tokens, now.tokens):
        yield "correct", now._replace(rejected=np.zeros_like(now.known))


def _frame(
    kind: Kind, seen: Snapshot, tokenizer: Tokenizer, shown: Shown, draft: int, counts: tuple[int, int]
) -> Frame:
    ids, probability, known, rejected = (part[0] for part in seen[1:])
    where = shown(ids)
    words = split_words(tokenizer, ids[where].tolist())
    sure = np.where(known, 1.0, probability)
    return Frame(kind, draft, *counts, words, sure[where], known[where], rejected[where])


def split_words(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """Return what each token adds to the text; a character of several tokens comes with its last one."""
    begun = [tokenizer.decode(ids[: n + 1]).rstrip("\ufffd") for n in range(len(ids) - 1)]
    texts = ["", *begun, tokenizer.decode(ids)] if ids else [""]
    return [text[len(before) :] for before, text in pairwise(texts)]
