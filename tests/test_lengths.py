from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sunfish.config.convert import build
from sunfish.diffusion.lengths import GROUPS, AnswerLengths, RowLengths
from sunfish.errors import InvalidValue

LENGTHS = RowLengths.count([8, 8, 12, 8, 20], possible=5)


@given(st.lists(st.integers(1, 16), min_size=1, max_size=50))
def test_all_possible_lengths_together_have_probability_one(lengths: list[int]) -> None:
    counted = RowLengths.count(np.array(lengths) * 4, possible=16)
    assert np.isclose(np.exp(-counted.nats(np.arange(1, 17) * 4)).sum(), 1.0)


def test_rows_of_one_length_cost_nothing() -> None:
    assert RowLengths.count([64] * 10, possible=1).nats([64]) == [0.0]


def test_lengths_are_drawn_by_their_shares() -> None:
    drawn = LENGTHS.draw(10_000, np.random.default_rng(0))
    assert set(drawn) == {8, 12, 20} and abs((drawn == 8).mean() - 0.6) < 0.02
    assert set(LENGTHS.draw(100, np.random.default_rng(0), at_least=9)) == {12, 20}
    assert set(LENGTHS.draw(5, np.random.default_rng(0), at_least=21)) == {20}


def test_a_text_takes_the_shortest_length_that_holds_it() -> None:
    assert [LENGTHS.shortest_for(n) for n in (1, 8, 9, 13, 99)] == [8, 8, 12, 20, 20]
    assert (LENGTHS.median, LENGTHS.longest) == (8, 20)


def test_lengths_come_back_from_json() -> None:
    again = json.loads(json.dumps(dataclasses.asdict(LENGTHS)))
    assert build(RowLengths, again, "config.json") == LENGTHS


@pytest.mark.parametrize(("lengths", "counts"), [((), ()), ((8, 4), (1, 1)), ((8,), (0,)), ((8, 9), (1,))])
def test_impossible_lengths_are_refused(lengths: tuple[int, ...], counts: tuple[int, ...]) -> None:
    with pytest.raises(InvalidValue):
        RowLengths(lengths, counts, 1)


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 12)), min_size=1, max_size=60))
def test_answers_are_as_long_as_those_to_like_instructions(tasks: list[tuple[int, int]]) -> None:
    asked, said = np.array(tasks).T
    answers = AnswerLengths.count(asked, said * 4, possible=12)
    assert 1 <= len(answers.up_to) <= GROUPS and answers.up_to[-1] == asked.max()
    assert sum(sum(each.counts) for each in answers.lengths) == len(tasks)
    for length, answer in zip(asked, said * 4, strict=True):
        assert answer in answers.behind(int(length)).lengths
    assert answers.behind(99) == answers.lengths[-1] and answers.longest >= max(said * 4)
    assert build(AnswerLengths, json.loads(json.dumps(dataclasses.asdict(answers))), "answers") == answers


def test_a_group_may_have_its_median_alone() -> None:
    answers = AnswerLengths.count(np.array([3, 3, 3, 9]), np.array([8, 8, 20, 40]), possible=9)
    assert [each.lengths for each in answers.medians().lengths] == [(8,), (40,)]
