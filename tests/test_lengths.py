from __future__ import annotations

import dataclasses
import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sunfish.diffusion.lengths import RowLengths

LAW = RowLengths.count([8, 8, 12, 8, 20], possible=5)


@given(st.lists(st.integers(1, 16), min_size=1, max_size=50))
def test_all_possible_lengths_together_have_probability_one(lengths: list[int]) -> None:
    law = RowLengths.count(np.array(lengths) * 4, possible=16)
    assert np.isclose(np.exp(-law.nats(np.arange(1, 17) * 4)).sum(), 1.0)


def test_rows_of_one_length_cost_nothing() -> None:
    assert RowLengths.count([64] * 10, possible=1).nats([64]) == [0.0]


def test_lengths_are_drawn_by_their_shares() -> None:
    drawn = LAW.draw(10_000, np.random.default_rng(0))
    assert set(drawn) == {8, 12, 20} and abs((drawn == 8).mean() - 0.6) < 0.02
    assert set(LAW.draw(100, np.random.default_rng(0), at_least=9)) == {12, 20}
    assert set(LAW.draw(5, np.random.default_rng(0), at_least=21)) == {20}


def test_where_no_length_is_told_a_row_is_as_long_as_it_may_become_and_costs_nothing() -> None:
    law = dataclasses.replace(LAW, told=False)
    assert set(law.draw(5, np.random.default_rng(0))) == {20} and (LAW.usual, law.usual) == (8, 20)
    assert law.nats([8, 12, 20]).tolist() == [0.0] * 3
    assert law.shortest_for(9) == 12  # of a text that is there its row's length is known


def test_a_text_takes_the_shortest_length_that_holds_it() -> None:
    assert [LAW.shortest_for(n) for n in (1, 8, 9, 13, 99)] == [8, 8, 12, 20, 20]


def test_a_law_of_lengths_comes_back_from_json() -> None:
    for told in (True, False):
        law = dataclasses.replace(LAW, told=told)
        again = RowLengths.from_json(json.loads(json.dumps(law.to_json())))
        assert np.array_equal(again.lengths, law.lengths) and np.array_equal(again.counts, law.counts)
        assert (again.possible, again.told) == (5, told)
    before = {
        key: value for key, value in LAW.to_json().items() if key != "told"
    }  # as folders have it that were exported before
    assert RowLengths.from_json(before).told
