"""Which slots of an E2E instruction a text says: a matcher of patterns, and how often it is wrong itself.

"name : The Mill , food : French , area : riverside"  ->  {"name": "The Mill", "food": "French", ...}
"""

from __future__ import annotations

import re
from collections.abc import Sequence

NEGATED = r"(?:\bno|\bnot(?! only)|n\s?[\u2019']t|\bnon|\bun|\bnever)\b[^.,]{0,30}(?:famil|kid|child)|adult"
LOW, MIDDLE, HIGH = r"\blow|poor|\bbad", r"averag|moderat|\bmid|decent", r"\bhigh|excellent|great"
CHEAP = r"cheap|inexpensive|affordable|budget|low[ -](?:price|cost)|pric[^.,]{0,20}\blow"
DEAR = r"expensive|pric[ei]y|costly|upscale|high(?:ly)?[ -](?:end|cost|price)|pric[^.,]{0,30}\bhigh"

PATTERNS: dict[str, dict[str, str]] = {
    "eatType": {"coffee shop": r"coffee|caf[eé]\b", "pub": r"\bpub|\bbar\b", "restaurant": r"restaurant"},
    "food": {
        "Japanese": r"japan|sushi", "Italian": r"ital|pasta|pizza", "Fast food": r"fast|burger(?! king)",
        "French": r"french|france", "Indian": r"india|curry(?! garden)", "Chinese": r"chin",
        "English": r"english|british|england",
    },
    "priceRange": {
        "cheap": CHEAP,
        "moderate": r"moderat|mid|reasonabl|affordable|averag[^.,]{0,20}pric|pric[^.,]{0,30}averag",
        "high": DEAR, "less than £20": rf"(?:less|under|below)[^.,]{{0,12}}(?:20|twenty)|{CHEAP}",
        "£20 - 25": r"20[^.,]{0,12}25",
        "more than £30": rf"(?:more|over|above)[^.,]{{0,12}}(?:30|thirty)|{DEAR}",
    },
    "customerrating": {
        "low": LOW, "average": MIDDLE, "high": HIGH,
        "1 out of 5": rf"\b(?:1|one)[ -]*(?:out|of|/|star)|{LOW}",
        "3 out of 5": rf"\b(?:3|three)[ -]*(?:out|of|/|star)|{MIDDLE}",
        "5 out of 5": rf"\b(?:5|five)[ -]*(?:out|of|/|star)|{HIGH}",
    },
    "area": {"riverside": r"river", "city centre": r"cent(?:re|er)|\bcity"},
    "familyFriendly": {"yes": r"famil|kid|child", "no": NEGATED},
}  # fmt: skip


def slots_of(instruction: str) -> dict[str, str]:
    """Return an instruction's slots."""
    pairs = (part.split(" : ", 1) for part in instruction.split(" , "))
    return {name.strip(): value.strip() for name, value in pairs}


def is_said(slot: str, value: str, text: str) -> bool:
    """Say whether a text says a slot's value."""
    if (slot, value) == ("familyFriendly", "yes") and re.search(NEGATED, text, re.I):
        return False
    pattern = PATTERNS.get(slot, {}).get(value) or re.escape(value.removeprefix("The "))
    return re.search(pattern, text, re.I) is not None


def slot_error_rate(instructions: Sequence[str], texts: Sequence[str]) -> float:
    """Return the share of all asked slots that texts do not say."""
    said = [
        is_said(slot, value, text)
        for asked, text in zip(instructions, texts, strict=True)
        for slot, value in slots_of(asked).items()
    ]
    return 1.0 - sum(said) / len(said)


def false_hit_rate(instructions: Sequence[str], texts: Sequence[str]) -> float:
    """Return the share of other values of asked slots that the matcher finds in texts all the same."""
    asked = [slots_of(instruction) for instruction in instructions]
    values: dict[str, set[str]] = {}
    for slots in asked:
        for slot, value in slots.items():
            values.setdefault(slot, set()).add(value)
    found = [
        is_said(slot, other, text)
        for slots, text in zip(asked, texts, strict=True)
        for slot, value in slots.items()
        for other in values[slot] - {value}
    ]
    return sum(found) / len(found)
