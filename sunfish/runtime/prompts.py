"""Prompts and texts with gaps -> rows of ids, and which of them are given."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from sunfish.diffusion.lengths import AnswerLengths, RowLengths
from sunfish.errors import UserError
from sunfish.text.tokenizer import Tokenizer

MASK = re.compile(r" ?\[MASK(?::([0-9]+))?\]")  # the space before a gap belongs to its first word
LONGEST_DRAWN = 8  # tokens of a gap without a number
SHOWN_WORDS = 5


@dataclass(frozen=True, eq=False)
class Row:
    """One row to be sampled: ids, (pos,), given where `known`, (pos,), is true."""

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


def given_row(ids: list[int], length: int) -> Row:
    """Return a row that begins with `ids`."""
    row = free_row(length)
    row.ids[: len(ids)], row.known[: len(ids)] = ids, True
    return row


def require_room(ids: list[int], length: int) -> None:
    """Refuse a prompt that leaves nothing to write.

    Raises:
        UserError: it fills the text.
    """
    if len(ids) >= length:
        says = f"the prompt has {len(ids)} tokens, which leaves no room in a text of {length}"
        raise UserError(f"{says}; shorten it or raise --length")


def task_row(
    asked: list[int], begun: list[int], length: int | None, answers: AnswerLengths | None,
    rng: np.random.Generator,
) -> Row:  # fmt: skip
    """Return a row of an instruction and an answer that begins with `begun`.

    The answer has `length` tokens at most; without one, as many as are drawn for such an instruction.

    Raises:
        UserError: there is no room for the answer, or the model takes no instructions.
    """
    if answers is None:
        raise UserError("this model takes no instructions; fine-tune one, or give a --prompt")
    room = answers.longest - len(asked)
    wanted = length or int(answers.behind(len(asked)).draw(1, rng, len(begun) + 1)[0])
    if not len(begun) < wanted <= room:
        says = f"the instruction has {len(asked)} tokens, which leaves room for {max(room, 0)} of an answer"
        wants = "" if length is None else f", fewer than --length = {length} asks for"
        advice = "shorten the instruction or the prompt"
        raise UserError(f"{says} in rows of {answers.longest}{wants}; {advice}")
    return given_row([*asked, *begun], len(asked) + wanted)


def has_gaps(text: str) -> bool:
    """Say whether a text has a gap."""
    return MASK.search(text) is not None


def is_gap_alone(text: str) -> bool:
    """Say whether a text is one gap of any length, and nothing else."""
    return text.strip() == "[MASK]"


def infill_row(tokenizer: Tokenizer, text: str, lengths: RowLengths, rng: np.random.Generator) -> Row:
    """Return a row with gaps: `[MASK:n]` is n tokens, `[MASK]` one to eight, drawn; all else is given.

    The row has the shortest of the trained lengths that holds the text and an end token; end tokens fill it.

    Raises:
        UserError: no gap, an empty gap, or more tokens than the longest length.
    """
    gaps = _find_gaps(text)
    starts, ends = [0, *(gap.end() for gap in gaps)], [*(gap.start() for gap in gaps), len(text)]
    parts = [tokenizer.encode(text[start:end]) for start, end in zip(starts, ends, strict=True)]
    room = lengths.longest - sum(map(len, parts))
    counts = _gap_lengths(gaps, room, lengths.longest, rng)
    ids, known = list(parts[0]), [True] * len(parts[0])
    for count, part in zip(counts, parts[1:], strict=True):
        ids += [tokenizer.end_id] * count + part
        known += [False] * count + [True] * len(part)
    filling = lengths.shortest_for(len(ids) + 1) - len(ids)
    return Row(np.array(ids + [tokenizer.end_id] * filling, np.int64), np.array(known + [True] * filling))


def _find_gaps(text: str) -> list[re.Match[str]]:
    if not text.strip():
        example = "'one day [MASK] went to the park .'"
        raise UserError(f"the text is empty; write one with a gap, such as {example}")
    gaps = list(MASK.finditer(text))
    if not gaps:
        raise UserError("the text has no gap; put [MASK] or [MASK:n] (n tokens) where the model should write")
    return gaps


def _gap_lengths(gaps: list[re.Match[str]], room: int, longest: int, rng: np.random.Generator) -> list[int]:
    """Return how many tokens each gap has, `room` of them in all at most."""
    counts = [_least(gap, longest) for gap in gaps]
    room -= sum(counts)
    if room < 0:
        says = f"the text has {longest - room} tokens, gaps included"
        raise UserError(f"{says}, but the model's length is {longest}")
    for index, gap in enumerate(gaps):
        if gap[1] is None:
            more = int(rng.integers(min(LONGEST_DRAWN - 1, room) + 1))
            counts[index], room = counts[index] + more, room - more
    return counts


def _least(gap: re.Match[str], longest: int) -> int:
    shown = gap[0].strip()[:40]
    if (gap[1] is not None and len(gap[1]) > len(str(longest)) + 1) or int(gap[1] or 1) > longest:
        raise UserError(f"{shown} is longer than the model's length of {longest} tokens")
    if int(gap[1] or 1) == 0:
        raise UserError(f"{shown} is a gap of no tokens; write [MASK] or [MASK:1] for one")
    return int(gap[1] or 1)


def empty_gaps(tokenizer: Tokenizer, row: Row, ids: np.ndarray) -> int:
    """Return how many gaps of a row hold no visible token."""
    count = 0
    for known, run in groupby(zip(row.known, ids.tolist(), strict=True), lambda at: at[0]):
        text = tokenizer.decode([token for _, token in run if token != tokenizer.end_id])
        count += not (known or text.strip())
    return count


def unseen_words(tokenizer: Tokenizer, text: str) -> list[str]:
    """Return the words of a text, gaps apart, of which the tokenizer knows single bytes only."""
    found: dict[str, None] = {}
    for part in MASK.split(text)[::2]:
        tokenizer.encode(part)  # refuses what is no text
        encoding = tokenizer.backend.encode(part, add_special_tokens=False)
        spans = zip(encoding.word_ids, encoding.tokens, encoding.offsets, strict=True)
        for _, word in groupby(spans, lambda span: span[0]):
            pieces = list(word)
            shown = part[pieces[0][2][0] : pieces[-1][2][1]].strip()
            if len(pieces) > 1 and shown and all(len(token) == 1 for _, token, _ in pieces):
                found[shown] = None
    return list(found)


def unseen_note(tokenizer: Tokenizer, text: str) -> str | None:
    """Return a note about the words that a tokenizer has never seen, if there are any."""
    words = unseen_words(tokenizer, text)
    inside = [word for word in words if not unseen_words(tokenizer, f" {word}")]
    never = [word for word in words if word not in inside]
    parts = [f"has never seen {_shown(never)}"] if never else []
    parts += [f"has seen {_shown(inside)} behind a space only"] if inside else []
    return f"the tokenizer {' and '.join(parts)}; the model reads single bytes there" if parts else None


def _shown(words: list[str]) -> str:
    more = f" and {len(words) - SHOWN_WORDS} more" if len(words) > SHOWN_WORDS else ""
    return ", ".join(map(repr, words[:SHOWN_WORDS])) + more
