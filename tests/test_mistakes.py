"""What `benchmarks.mistakes` says of a word: whether some story goes on with it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from benchmarks.mistakes import Asked, by_floor, may_stand, what_is_wrong
from sunfish.evaluation.quality import PEOPLE
from sunfish.text.lexicon import GRAMMARS, Grammar
from sunfish.text.stories import split_sentences, write_stories


@pytest.fixture(scope="module", params=GRAMMARS.values(), ids=GRAMMARS)
def grammar(request: pytest.FixtureRequest) -> Grammar:
    chosen: Grammar = request.param
    return chosen


def test_all_that_a_story_says_may_stand_where_it_does(grammar: Grammar) -> None:
    for story in itertools.islice(write_stories(3, grammar=grammar), 60):
        words = tuple(story.split())
        assert all(may_stand(words[: at + 1], grammar) for at in range(len(words)))
        assert what_is_wrong(story, grammar) is None


def test_what_no_story_goes_on_with_may_not(grammar: Grammar) -> None:
    for story in itertools.islice(write_stories(4, grammar=grammar), 60):
        first, second, *rest = split_sentences(story)
        twice = [*first, *second, *second]
        assert not may_stand(tuple(twice), grammar)
        assert not may_stand((*first, "once"), grammar) and not may_stand((*first[:-1], "once"), grammar)
        whole = " ".join(itertools.chain(twice, *rest))
        assert what_is_wrong(whole, grammar) == "the same form of sentence twice running"
        longer = [first, *[second, first] * (max(grammar.num_sentences) // 2 + 1)]
        assert what_is_wrong(" ".join(itertools.chain(*longer)), grammar) == "too many sentences"


def test_a_floor_cuts_wrong_words_and_right_ones() -> None:
    """Two stories of two places each: what is left of each place's words is drawn by its share."""
    people = np.full((2, len(PEOPLE)), 1.0)
    asked = Asked(
        place=np.array([0, 0, 1, 2, 2, 2, 3]),
        story=np.array([0, 0, 1, 1]),
        probability=np.array([0.9, 0.1, 1.0, 0.6, 0.395, 0.005, 1.0]),
        likeliest=np.array([0.9, 0.9, 1.0, 0.6, 0.6, 0.6, 1.0]),
        right=np.array([True, False, True, True, True, False, True]),
        people=people,
        before_people=people[:, 0],
    )
    rows = by_floor(asked, "absolute")
    assert rows["0"]["stories_with_a_wrong_word"] == pytest.approx((0.1 + 0.005) / 2)
    assert rows["0.01"]["stories_with_a_wrong_word"] == pytest.approx(0.1 / 2)
    assert rows["0.03"]["right_words_cut_per_story"] == 0.0
    asked.right[5] = True
    assert by_floor(asked, "absolute")["0.01"]["right_words_cut_per_story"] == pytest.approx(0.005 / 2)
