"""Story tasks: an instruction, a story of the grammar that meets it, and an oracle for each constraint.

The story is written first and the instruction says some of what is in it, so every task can be met, and the
stories are distributed as the grammar's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, count

import numpy as np

from sunfish.documents import TURN
from sunfish.text.lexicon import FREE_SLOTS, NAMES, SHORT, WORDS, Form, Grammar
from sunfish.text.slots import options
from sunfish.text.stories import split_sentences, write_story

PEOPLE = frozenset(chain(*NAMES.values()))
CONTENT = sorted(
    {word for words in (*WORDS.values(), *FREE_SLOTS.values()) for word in words if " " not in word}
)
MENTION_SHARE = 0.8  # how often an instruction says something that it could

Check = Callable[[str, str, Grammar], bool]  # what is asked for, a story, its grammar

INSTRUCTION = re.compile(
    r"(?:write )?a story(?: about (?P<person>\w+)(?: and (?:a (?P<animal>\w+)|(?P<friend>\w+)))?)?"
    r"(?: at the (?P<place>\w+))?"
    r"(?: with the words (?P<first_word>\w+) and (?P<second_word>\w+)| that begins with : (?P<opening>.+)"
    r"| that ends with : (?P<ending>.+)| with a (?P<mood>happy|sad) end)?"
)


def _mentions(asked: str, story: str, grammar: Grammar) -> bool:
    return asked in story.split()


def _is_about(asked: str, story: str, grammar: Grammar) -> bool:
    return next(filter(PEOPLE.__contains__, story.split()), None) == asked


CONSTRAINTS: dict[str, Check] = {
    "person": _is_about,
    "animal": _mentions,
    "friend": _mentions,
    "place": _mentions,
    "first_word": _mentions,
    "second_word": _mentions,
    "opening": lambda asked, story, grammar: story.startswith(asked),
    "ending": lambda asked, story, grammar: story.endswith(asked),
    "mood": lambda asked, story, grammar: mood_of(story, grammar) == asked,
}


def constraints_of(instruction: str) -> dict[str, str]:
    """Return what an instruction asks for, by the names of `CONSTRAINTS`.

    Raises:
        ValueError: it is no story task.
    """
    found = INSTRUCTION.fullmatch(instruction)
    if found is None:
        raise ValueError(f"no story task: {instruction!r}")
    return {name: asked for name, asked in found.groupdict().items() if asked is not None}


def judge_task(instruction: str, story: str, grammar: Grammar = SHORT) -> dict[str, bool]:
    """Return of each constraint of an instruction whether a story meets it."""
    asked = constraints_of(instruction).items()
    return {name: CONSTRAINTS[name](value, story, grammar) for name, value in asked}


def mood_of(story: str, grammar: Grammar) -> str | None:
    """Return how a story ends: "sad" if something stays lost, "happy" if nothing may; None between."""
    sentences = split_sentences(story)
    last = " ".join(sentences[-1]) if sentences else ""
    form = next((form for form in grammar.closings if _pattern(form).fullmatch(last)), None)
    if form is None:
        return None
    return "sad" if "lost" in form.needs else "happy" if "lost" in form.lacks else None


def _pattern(form: Form) -> re.Pattern[str]:
    return re.compile(" ".join(map(_part_pattern, form.parts)))


def _part_pattern(part: str) -> str:
    if part[0] not in "[{":
        return re.escape(part)
    return "(?:" + "|".join({re.escape(" ".join(option.words)) for option in options(part, {})}) + ")"


def write_task(rng: np.random.Generator, grammar: Grammar = SHORT) -> tuple[str, str]:
    """Return an instruction and a story that meets it."""
    story = write_story(rng, grammar)
    words = story.split()
    person = next(filter(PEOPLE.__contains__, words))
    others = [f"a {word}" for word in WORDS["animal"] if word in words]
    others += sorted(PEOPLE.intersection(words) - {person})
    place = next((word for word in WORDS["place"] if word in words), None)
    instruction = "a story" if rng.random() < MENTION_SHARE else "write a story"
    if rng.random() < MENTION_SHARE:
        instruction += f" about {person}"
        if others and rng.random() < MENTION_SHARE:
            instruction += f" and {others[rng.integers(len(others))]}"
    if place and rng.random() < MENTION_SHARE:
        instruction += f" at the {place}"
    return instruction + _further(story, rng, grammar), story


def _further(story: str, rng: np.random.Generator, grammar: Grammar) -> str:
    """Return one more wish that a story meets, or none."""
    sentences = [" ".join(sentence) for sentence in split_sentences(story)]
    content = [word for word in CONTENT if word in story.split()]
    mood = mood_of(story, grammar)
    wishes = ["", f" that begins with : {sentences[0]}", f" that ends with : {sentences[-1]}"]
    if len(content) > 1:
        first, second = rng.choice(len(content), 2, replace=False)
        wishes.append(f" with the words {content[first]} and {content[second]}")
    if mood:
        wishes.append(f" with a {mood} end")
    return wishes[rng.integers(len(wishes))]


def write_tasks(seed: int, first: int = 0, grammar: Grammar = SHORT) -> Iterator[tuple[str, str]]:
    """Yield tasks from the `first` on, without end; task k depends on (seed, k) only."""
    for index in count(first):
        yield write_task(np.random.default_rng((seed, index)), grammar)


def as_document(turns: Sequence[str]) -> str:
    """Return the turns of a conversation, the answer last, as one document.

    Raises:
        ValueError: a turn is empty or no text, or there is no instruction.
    """
    if len(turns) < 2 or not all(isinstance(turn, str) and turn.strip() for turn in turns):
        raise ValueError("needs an instruction and a response, neither of them empty")
    if any(TURN in turn for turn in turns):
        raise ValueError(f"holds {TURN!r}, which stands between turns")
    return TURN.join(turns)
