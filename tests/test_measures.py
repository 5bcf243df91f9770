"""What evaluation measures, where the right answer can be computed."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sunfish.diffusion.lengths import RowLengths
from sunfish.diffusion.schedule import cosine
from sunfish.evaluation.bound import BoundEstimator
from sunfish.evaluation.held_out import beside_grammar
from sunfish.evaluation.quality import (
    count_story_words,
    story_metrics,
    text_metrics,
    total_variation,
)
from sunfish.model.denoiser import Prediction, posterior_logit_scale
from sunfish.model.embedding import expected_embedding
from sunfish.sampling.loop import Conditioning
from sunfish.text.lexicon import SHORT
from sunfish.text.stories import entropy_nats, judge, split_sentences, write_stories


class IdealDenoiser(nn.Module):
    """The exact posterior of tokens drawn one by one from `p`; embeddings on a circle."""

    def __init__(self, p: np.ndarray) -> None:
        super().__init__()
        self.log_p = nn.Parameter(torch.from_numpy(np.log(p)).float(), requires_grad=False)
        angle = 2 * np.pi * np.arange(len(p)) / len(p)
        self.table = torch.from_numpy(np.sqrt(2) * np.stack((np.cos(angle), np.sin(angle)), axis=1)).float()
        self.config = dataclasses.make_dataclass("Config", [("emb_dim", int)])(2)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table[ids]

    def forward(self, x_t: torch.Tensor, logsnr: torch.Tensor, *_: Any) -> Prediction:
        logits = self.log_p + posterior_logit_scale(logsnr)[:, None, None] * (x_t @ self.table.T)
        return Prediction(expected_embedding(logits, self.table), logits)


P = np.array([0.5, 0.25, 0.125, 0.125])
ENTROPY = -float((P * np.log(P)).sum())


def bound_of_rows(p_model: np.ndarray, known: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    ids = rng.choice(4, size=known.shape, p=P)
    estimator = BoundEstimator(IdealDenoiser(p_model), cosine(-9.0, 9.0), 16, rng)  # type: ignore[arg-type]
    return estimator.bound([Conditioning(ids, known)], None).nats


def test_the_bound_of_an_ideal_denoiser_is_the_entropy(rng: np.random.Generator) -> None:
    nats = bound_of_rows(P, np.zeros((600, 8), bool), rng)
    error = nats.std(ddof=1) / math.sqrt(len(nats))
    assert error < 0.02 * 8 * ENTROPY
    assert abs(nats.mean() - 8 * ENTROPY) < 4 * error + 0.01


def test_the_bound_of_a_wrong_denoiser_lies_above_its_cross_entropy(rng: np.random.Generator) -> None:
    wrong = np.array([0.125, 0.125, 0.25, 0.5])
    cross_entropy = -float((P * np.log(wrong)).sum())
    nats = bound_of_rows(wrong, np.zeros((600, 8), bool), rng)
    assert nats.mean() > 8 * cross_entropy - 4 * nats.std(ddof=1) / math.sqrt(len(nats))
    assert nats.mean() > 8 * ENTROPY


def test_known_positions_cost_nothing(rng: np.random.Generator) -> None:
    known = np.ones((600, 8), bool)
    assert (bound_of_rows(P, known, rng) == 0).all()
    known[:, 3:5] = False
    nats = bound_of_rows(P, known, rng)
    assert abs(nats.mean() - 2 * ENTROPY) < 4 * nats.std(ddof=1) / math.sqrt(len(nats)) + 0.01


def test_a_rows_length_costs_what_it_is_worth(rng: np.random.Generator) -> None:
    rows = Conditioning(np.zeros((2, 4), int), np.ones((2, 4), bool))
    lengths = RowLengths.count([4, 4, 8], 2)
    estimator = BoundEstimator(IdealDenoiser(P), cosine(-9.0, 9.0), 2, rng)  # type: ignore[arg-type]
    assert estimator.bound([rows], lengths).nats == pytest.approx(lengths.nats([4, 4]))


def test_the_grammar_is_no_worse_than_itself() -> None:
    stories = [*itertools.islice(write_stories(3), 50), "no story"]
    exact = np.array([-judge(story, SHORT).log_prob_nats for story in stories])
    numbers = beside_grammar(np.where(np.isfinite(exact), exact + 1.0, 7.0), stories, SHORT)
    assert numbers["excess_nats_per_row"] == pytest.approx(1.0)
    assert numbers["ratio_to_entropy"] == pytest.approx(1.0 + 1.0 / entropy_nats(SHORT))
    assert beside_grammar(np.ones(1), ["no story"], SHORT) == {}


def test_text_metrics_on_texts_one_can_count() -> None:
    metrics = text_metrics([[1, 1, 2, 2], [1, 1, 2, 2]], ["a", "a"])
    assert metrics["unique"] == 0.5 and metrics["entropy_per_sample_nats"] == pytest.approx(np.log(2))
    assert metrics["distinct_2"] == 0.5 and metrics["distinct_3"] == 0.5 and metrics["rep_2"] == 0.0


def test_total_variation_of_shares_one_can_count() -> None:
    assert total_variation({"a": 1.0}, {"b": 1.0}) == 1.0 == total_variation({}, {"b": 1.0})
    assert total_variation({"a": 0.75, "b": 0.25}, {"a": 0.5, "b": 0.5}) == pytest.approx(0.25)
    assert total_variation({"a": 0.5, "b": 0.5}, {"b": 0.5, "a": 0.5}) == 0.0


def test_every_sentence_of_the_grammar_has_a_form_and_its_stories_are_near_it() -> None:
    stories = list(itertools.islice(write_stories(3), 3000))
    counts = count_story_words(stories, SHORT)
    assert counts["forms"].total() == sum(len(split_sentences(story)) for story in stories)
    assert counts["people"].total() == len(stories)
    metrics = story_metrics(stories, SHORT)
    assert all(metrics[f"{kind}_total_variation"] < 0.06 for kind in counts)
    lopsided = story_metrics([story for story in stories if "anna" in story.split()], SHORT)
    assert lopsided["people_total_variation"] > 0.5
