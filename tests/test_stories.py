from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from sunfish.text.lexicon import GRAMMARS, LONG, SHORT, Grammar
from sunfish.text.stories import entropy_nats, judge, options, split_sentences, write_stories


@pytest.fixture(scope="module", params=GRAMMARS.values(), ids=GRAMMARS)
def grammar(request: pytest.FixtureRequest) -> Grammar:
    chosen: Grammar = request.param
    return chosen


@pytest.fixture(scope="module")
def stories(grammar: Grammar) -> list[str]:
    return list(itertools.islice(write_stories(1, grammar=grammar), 3000))


def test_the_language_is_as_large_as_promised(stories: list[str], grammar: Grammar) -> None:
    assert len({word for story in stories for word in story.split()}) >= 300
    assert len(grammar.forms) >= 40
    assert {len(split_sentences(story)) for story in stories} == set(grammar.num_sentences)
    assert len(set(stories)) == len(stories)


def test_the_long_grammar_has_more_to_say_and_to_keep_track_of() -> None:
    assert set(SHORT.forms) < set(LONG.forms)
    assert min(LONG.num_sentences) >= max(SHORT.num_sentences)
    assert entropy_nats(LONG) > 1.8 * entropy_nats(SHORT)
    assert sum(LONG.num_sentences.values()) == pytest.approx(1.0)


def test_the_same_seed_writes_the_same_stories() -> None:
    first, again, other = (list(itertools.islice(write_stories(seed), 20)) for seed in (5, 5, 6))
    assert first == again != other


def test_every_story_is_consistent_and_every_sentence_valid(stories: list[str], grammar: Grammar) -> None:
    for story in stories[:500]:
        verdict = judge(story, grammar)
        assert verdict.consistent and all(verdict.valid) and verdict.breaks_at is None, story


def test_options_are_probabilities() -> None:
    for known in ({}, {"name": "anna", "gender": "she"}, {"gender": "he"}, {"number": "five"}):
        for slot in {part for form in LONG.forms for part in form.parts if part[0] in "[{"}:
            assert sum(option.probability for option in options(slot, known)) == pytest.approx(1.0)


def test_the_exact_entropy_is_the_mean_of_minus_log_p(stories: list[str], grammar: Grammar) -> None:
    nats = -np.array([judge(story, grammar).log_prob_nats for story in stories])
    assert abs(nats.mean() - entropy_nats(grammar)) < 4 * nats.std() / math.sqrt(len(nats))


def test_probabilities_of_all_sentences_with_one_form_sum_to_its_share() -> None:
    """All ways to say one closing sentence, by brute force, have the form's own probability."""
    story = "once anna had a red ball . she played with the ball . she was happy . anna ate some bread . "
    says = [f"{who} put the ball in a box ." for who in ("she", "anna")]
    with_box = sum(math.exp(judge(story + s).log_prob_nats) for s in says)
    rest = {"happy", "glad", "proud", "excited", "cheerful", "calm", "thankful", "joyful"}
    with_home = sum(
        math.exp(judge(story + f"{who} went home and was {g} .").log_prob_nats)
        for who in ("she", "anna")
        for g in rest
    )
    assert with_box == pytest.approx(with_home)  # both forms have weight 2


BROKEN = [
    (
        "once anna had a red ball . he played with the ball . anna was happy . it was the best day of all .",
        7,
        "another pronoun",
    ),
    (
        "once anna had a red ball . she played with the kite . anna was happy . it was the best day of all .",
        11,
        "another object",
    ),
    (
        "once anna had a red ball . she found the ball in the mud . anna was happy . it was the best day of all .",  # noqa: E501
        8,
        "found, not lost",
    ),
    (
        "once anna had a little dog . the cat barked twice . anna was happy . it was the best day of all .",
        8,
        "another animal",
    ),
    (
        "once anna had a little dog . the dog meowed twice . anna was happy . it was the best day of all .",
        9,
        "another voice",
    ),
    ("once anna had a little dog . the dog was very hungry . anna was happy .", 17, "stops too early"),
    ("", 0, "nothing"),
]


@pytest.mark.parametrize(("story", "at", "why"), BROKEN, ids=[why for *_, why in BROKEN])
def test_the_oracle_says_at_which_word_a_story_breaks(story: str, at: int, why: str) -> None:
    verdict = judge(story)
    assert not verdict.consistent and verdict.log_prob_nats == -math.inf
    assert verdict.breaks_at == at


PICKED = "once anna had a little dog . anna picked five figs . "
SWAPPED = "once anna had a red ball . her friend tom came along . tom had a shell . she traded the ball for the shell . "  # noqa: E501
BROKEN_LONG = [
    (PICKED + "she ate one of the figs and had five left .", "five", "miscounted"),
    (
        PICKED + "she ate one of the figs and had four left . anna counted the figs and there were five .",
        "five",
        "forgot what was eaten",
    ),
    (PICKED + "the dog took one of the figs and left four .", "took", "the first is the person's"),
    (SWAPPED + "she played with the ball .", "played", "it is the friend's now"),
    (SWAPPED + "she and tom traded back . tom looked after the ball .", "looked", "it is the person's again"),
    (
        "one day anna went to the park . she left the park . anna liked the park very much .",
        "liked",
        "she is elsewhere",
    ),
    (
        "one day anna went to the park . in the evening the stars came out . at noon she felt tired .",
        "at",
        "evening comes after noon",
    ),
]


@pytest.mark.parametrize(("story", "word", "why"), BROKEN_LONG, ids=[why for *_, why in BROKEN_LONG])
def test_the_oracle_keeps_track_of_a_long_story(story: str, word: str, why: str) -> None:
    at = judge(story, LONG).breaks_at
    assert at is not None and story.split()[at] == word and at >= len(story.rsplit(" . ", 1)[0].split()), why
    assert all(judge(story, LONG).valid)


def test_a_sentence_is_judged_by_itself() -> None:
    assert judge("the dog barked twice . the dog meowed twice . dog the . she was happy .").valid == (
        True,
        False,
        False,
        True,
    )


def test_no_two_forms_say_the_same_sentence(stories: list[str], grammar: Grammar) -> None:
    from sunfish.text.stories import _match

    for story in stories[:60]:
        for sentence in split_sentences(story):
            assert sum(_match(form.parts, sentence, {})[0] is not None for form in grammar.forms) == 1, (
                sentence
            )
