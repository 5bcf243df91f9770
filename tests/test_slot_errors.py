from __future__ import annotations

import pytest

from benchmarks.slot_errors import PATTERNS, false_hit_rate, is_said, slot_error_rate, slots_of

ASKED = "name : The Mill , priceRange : less than £20 , customerrating : 5 out of 5 , familyFriendly : no"
SAID = "Mill is not family - friendly, costs less than £20 and has 5 out of 5 stars."


def test_an_instruction_has_its_slots() -> None:
    assert slots_of(ASKED)["priceRange"] == "less than £20" and len(slots_of(ASKED)) == 4


def test_every_value_is_found_in_its_own_words() -> None:
    words = {("familyFriendly", "yes"): "a family pub", ("familyFriendly", "no"): "not a family pub"}
    for slot, values in PATTERNS.items():
        for value in values:
            assert is_said(slot, value, words.get((slot, value), f"it has a price of: {value}")), (
                slot,
                value,
            )


@pytest.mark.parametrize(
    ("text", "errors"),
    [(SAID, 0), (SAID.replace("not ", ""), 1), ("Mill.", 3), (SAID.replace("20", "30"), 1), ("", 4)],
)
def test_slots_that_are_not_said_are_errors(text: str, errors: int) -> None:
    assert slot_error_rate([ASKED], [text]) == errors / 4


def test_a_false_hit_is_another_value_that_is_found() -> None:
    asked = ["name : The Mill , area : riverside", "name : Cocum , area : city centre"]
    assert false_hit_rate(asked, ["The Mill, by the river", "Cocum, in the city"]) == 0.0
    assert false_hit_rate(asked, ["The Mill and Cocum, by the river", "Cocum, in the city"]) == 1 / 4
