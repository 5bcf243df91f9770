"""What a slot of the story grammar may say, and how likely, given what the story has said so far."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from sunfish.text.lexicon import FREE_SLOTS, NAMES, NUMBERS, SOUNDS, WORDS

NAME_SHARE = 0.4  # how often a person is called by name where a pronoun would do
PRONOUNS = {
    "he": {"she": "she", "he": "he"},
    "his": {"she": "her", "he": "his"},
    "him": {"she": "her", "he": "him"},
    "kid": {"she": "girl", "he": "boy"},
}
OTHER = {"she": "he", "he": "she"}

Choice = tuple[tuple[str, ...], tuple[tuple[str, str], ...]]  # words, and what the story learns from them
Bindings = dict[str, str]  # who and what the story is about: name, gender, friend, animal, color, number


@dataclass(frozen=True)
class Option:
    """One thing a slot may say: its words, its probability, and what the story knows afterwards."""

    words: tuple[str, ...]
    probability: float
    learns: tuple[tuple[str, str], ...] = ()


def options(slot: str, known: Bindings) -> tuple[Option, ...]:
    """Return what `slot` may say given the bindings; probabilities sum to 1.

    `[x]` draws something new, `{x}` speaks of what is known. Where `{x}` is not known yet (a sentence looked
    at by itself), anything of its kind will do and becomes known."""
    return _options(slot, tuple(sorted(known.items())))


@cache
def _options(slot: str, known_items: tuple[tuple[str, str], ...]) -> tuple[Option, ...]:
    known, kind = dict(known_items), slot[1:-1]
    if slot[0] == "{" and kind in PRONOUNS:
        genders = [known["gender"]] if "gender" in known else ["she", "he"]
        return _uniform([((PRONOUNS[kind][g],), (("gender", g),)) for g in genders])
    if slot == "{sound}":
        animals = [known["animal"]] if "animal" in known else list(SOUNDS)
        return _uniform([((SOUNDS[a],), (("animal", a),)) for a in animals])
    if kind in ("number", "fewer") and slot[0] == "{":
        return _numbers(kind, known)
    if slot == "{who}":
        return _person(known)
    if slot == "[name]" or (slot == "{name}" and "name" not in known):
        genders = [known["gender"]] if "gender" in known else ["she", "he"]
        return _by_rank([[((n,), (("name", n), ("gender", g))) for n in NAMES[g]] for g in genders])
    if slot == "[friend]" or (slot == "{friend}" and "friend" not in known):
        return _friends(known)
    if slot[0] == "{" and kind in known:
        return (Option((known[kind],), 1.0),)
    if kind in FREE_SLOTS:
        return _by_rank([[(tuple(phrase.split()), ()) for phrase in FREE_SLOTS[kind]]])
    return _by_rank([[((word,), ((kind, word),)) for word in WORDS[kind]]])


def _numbers(kind: str, known: Bindings) -> tuple[Option, ...]:
    """The number there is, or one fewer, which is then the number there is."""
    now = [NUMBERS.index(known["number"])] if "number" in known else range(1, len(NUMBERS))
    numbers = [NUMBERS[at - (kind == "fewer")] for at in now]
    return _uniform([((number,), (("number", number),)) for number in numbers])


def _uniform(choices: list[Choice]) -> tuple[Option, ...]:
    return tuple(Option(words, 1 / len(choices), learns) for words, learns in choices)


def _by_rank(groups: list[list[Choice]]) -> tuple[Option, ...]:
    """Give groups the same share and, inside each, the k-th word 1/k of the first one's (Zipf's law)."""
    drawn: list[Option] = []
    for group in groups:
        total = sum(1 / rank for rank in range(1, len(group) + 1)) * len(groups)
        drawn += [Option(words, 1 / rank / total, learns) for rank, (words, learns) in enumerate(group, 1)]
    return tuple(drawn)


def _person(known: Bindings) -> tuple[Option, ...]:
    if "name" in known:
        named: tuple[Option, ...] = (Option((known["name"],), NAME_SHARE),)
    else:
        named = tuple(Option(o.words, NAME_SHARE * o.probability, o.learns) for o in options("[name]", known))
    pronoun = options("{he}", known)
    return named + tuple(Option(o.words, (1 - NAME_SHARE) * o.probability, o.learns) for o in pronoun)


def _friends(known: Bindings) -> tuple[Option, ...]:
    """Names of the other gender, so that a pronoun always means the story's person."""
    genders = [OTHER[known["gender"]]] if "gender" in known else ["she", "he"]
    return _by_rank([[((n,), (("friend", n), ("gender", OTHER[g]))) for n in NAMES[g]] for g in genders])
