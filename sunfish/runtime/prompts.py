"""Texts with gaps -> rows of ids and which of them are given."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from sunfish.lengths import RowLengths
from sunfish.problems import Problem
from sunfish.text.tokenizer import Tokenizer

MASK = re.compile(r" ?\[MASK(?::(\d+))?\]")  # the space before a gap belongs to its first word


@dataclass(frozen=True, eq=False)
class Row:
    """One row to be sampled: ids, (pos,), where `known`, (pos,), is true; the rest is written by the model."""

    ids: np.ndarray
    known: np.ndarray


def free_row(length: int) -> Row:
    """Return a row of which nothing is given."""
    return Row(np.zeros(length, np.int64), np.zeros(length, bool))


def prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Return a prompt's ids.

    Raises:
        Problem: the prompt is empty.
    """
    if not prompt.strip():
        raise Problem("the prompt is empty; leave --prompt out to write freely")
    return tokenizer.encode(prompt)


def prompt_row(tokenizer: Tokenizer, prompt: str, length: int) -> Row:
    """Return a row that begins with `prompt`; the model writes on.

    Raises:
        Problem: the prompt is empty, or leaves no room.
    """
    ids = prompt_ids(tokenizer, prompt)
    if len(ids) >= length:
        raise Problem(f"the prompt has {len(ids)} tokens, which leaves no room in a text of {length}; shorten it or raise --length")
    row = free_row(length)
    row.ids[: len(ids)], row.known[: len(ids)] = ids, True
    return row


def infill_row(tokenizer: Tokenizer, text: str, lengths: RowLengths) -> Row:
    """Return a row in which everything but the gaps is given: `[MASK]` is one token, `[MASK:n]` is n.

    The row has the shortest of the trained lengths that holds the text and an end token; end tokens fill it.

    Raises:
        Problem: no gap, an empty gap, or more tokens than the longest length.
    """
    longest = lengths.longest
    if not text.strip():
        raise Problem("the text is empty; write one with a gap, such as 'one day [MASK] went to the park .'")
    ids, known, end = list[int](), list[bool](), 0
    for gap in MASK.finditer(text):
        count = int(gap[1] or 1)
        if count == 0:
            raise Problem(f"{gap[0].strip()} is a gap of no tokens; write [MASK] or [MASK:1] for one")
        if count > longest:
            raise Problem(f"{gap[0].strip()} is longer than the model's length of {longest} tokens")
        given = tokenizer.encode(text[end : gap.start()])
        ids += given + [tokenizer.end_id] * count
        known += [True] * len(given) + [False] * count
        end = gap.end()
    if end == 0:
        raise Problem("the text has no gap; put [MASK] or [MASK:n] (n tokens) where the model should write")
    rest = tokenizer.encode(text[end:])
    ids, known = ids + rest, known + [True] * len(rest)
    if len(ids) > longest:
        raise Problem(f"the text has {len(ids)} tokens, gaps included, but the model's length is {longest}")
    filling = lengths.shortest_for(len(ids) + 1) - len(ids)
    return Row(np.array(ids + [tokenizer.end_id] * filling, np.int64), np.array(known + [True] * filling))
