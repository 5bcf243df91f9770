"""Texts with gaps -> rows of ids and which of them are given."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from sunfish.diffusion.lengths import RowLengths
from sunfish.errors import UserError
from sunfish.text.tokenizer import Tokenizer

MASK = re.compile(r" ?\[MASK(?::(\d+))?\]")  # the space before a gap belongs to its first word
LONGEST_OWN = 8  # tokens of a gap that chooses its length


@dataclass(frozen=True, eq=False)
class Row:
    """One row to be sampled: ids, (pos,), where `known`, (pos,), is true; the rest is written by the
    model.
    """

    ids: np.ndarray
    known: np.ndarray


def free_row(length: int) -> Row:
    """Return a row of which nothing is given."""
    return Row(np.zeros(length, np.int64), np.zeros(length, bool))


def prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Return a prompt's ids.

    Raises:
        UserError: the prompt is empty.
    """
    if not prompt.strip():
        raise UserError("the prompt is empty; leave --prompt out to write freely")
    return tokenizer.encode(prompt)


def prompt_row(tokenizer: Tokenizer, prompt: str, length: int) -> Row:
    """Return a row that begins with `prompt`; the model writes on.

    Raises:
        UserError: the prompt is empty, or leaves no room.
    """
    ids = prompt_ids(tokenizer, prompt)
    if len(ids) >= length:
        raise UserError(
            f"the prompt has {len(ids)} tokens, which leaves no room in a text of {length}; shorten it or raise --length"
        )
    return given_row(ids, length)


def given_row(ids: list[int], length: int) -> Row:
    """Return a row that begins with `ids`."""
    row = free_row(length)
    row.ids[: len(ids)], row.known[: len(ids)] = ids, True
    return row


def infill_row(
    tokenizer: Tokenizer, text: str, lengths: RowLengths, rng: np.random.Generator | None = None
) -> Row:
    """Return a row in which everything but the gaps is given: `[MASK:n]` is n tokens, `[MASK]` up to eight,
    drawn, or one without `rng`.

    The row has the shortest of the trained lengths that holds the text and an end token; end tokens fill it.

    Raises:
        UserError: no gap, an empty gap, or more tokens than the longest length.
    """
    longest = lengths.longest
    if not text.strip():
        raise UserError(
            "the text is empty; write one with a gap, such as 'one day [MASK] went to the park .'"
        )
    gaps = list(MASK.finditer(text))
    if not gaps:
        raise UserError("the text has no gap; put [MASK] or [MASK:n] (n tokens) where the model should write")
    starts, ends = [0, *(gap.end() for gap in gaps)], [*(gap.start() for gap in gaps), len(text)]
    parts = [tokenizer.encode(text[start:end]) for start, end in zip(starts, ends, strict=True)]
    counts = [_count(gap, longest) for gap in gaps]
    room = longest - sum(map(len, parts)) - sum(counts)
    if room < 0:
        raise UserError(
            f"the text has {longest - room} tokens, gaps included, but the model's length is {longest}"
        )
    for place, gap in enumerate(gaps):
        if rng is not None and gap[1] is None:
            more = int(rng.integers(min(LONGEST_OWN - 1, room) + 1))
            counts[place], room = counts[place] + more, room - more
    ids, known = list(parts[0]), [True] * len(parts[0])
    for count, part in zip(counts, parts[1:], strict=True):
        ids += [tokenizer.end_id] * count + part
        known += [False] * count + [True] * len(part)
    filling = lengths.shortest_for(len(ids) + 1) - len(ids)
    return Row(np.array(ids + [tokenizer.end_id] * filling, np.int64), np.array(known + [True] * filling))


def _count(gap: re.Match[str], longest: int) -> int:
    """Return how many tokens a gap has at least."""
    count = int(gap[1] or 1)
    if count == 0:
        raise UserError(f"{gap[0].strip()} is a gap of no tokens; write [MASK] or [MASK:1] for one")
    if count > longest:
        raise UserError(f"{gap[0].strip()} is longer than the model's length of {longest} tokens")
    return count
