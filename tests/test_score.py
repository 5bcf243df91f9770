from __future__ import annotations

import numpy as np
import pytest
import torch

from sunfish.model.inference import sample_ids
from sunfish.model.score import Score, fill_gaps
from sunfish.sampler import Given, make_table
from sunfish.schedule import uniform
from tests.test_sight import scrambled

LAW = uniform(-11, 4)


def test_a_token_s_nats_depend_on_what_comes_before_it_alone() -> None:
    score, ids = Score(scrambled()), torch.arange(9)[None] % 11
    before = score(ids)[0]
    assert before[0] == 0 and (before[1:] > 0).all()
    for position in range(9):
        changed = ids.clone()
        changed[0, position] = 10
        differs = score(changed)[0] != before
        assert not differs[:position].any() and differs[position + 1 :].all()


def test_the_nats_of_all_tokens_there_could_be_add_up_to_certainty() -> None:
    score, ids = Score(scrambled()), torch.tensor([[3, 1, 4, 1, 5]]).repeat(11, 1)
    ids[:, 3] = torch.arange(11)
    assert float((-score(ids)[:, 3]).exp().sum()) == pytest.approx(1.0, rel=1e-5)


def test_of_several_fillings_the_likeliest_is_taken_and_what_is_given_stays() -> None:
    denoiser, rng = scrambled(), np.random.default_rng(0)
    given = Given(rng.integers(11, size=(3, 8)), np.tile(np.arange(8) % 4 > 0, (3, 1)))
    table = make_table("ancestral", LAW, 8, window_steps=1)
    ids, calls = fill_gaps(denoiser, table, given, np.random.default_rng(1), 1.0, 6)
    several = Given(np.repeat(given.ids, 6, axis=0), np.repeat(given.known, 6, axis=0))
    tried, taken = sample_ids(denoiser, table, several, np.random.default_rng(1), 1.0)
    nats = Score(denoiser)(torch.from_numpy(tried)).sum(dim=1).reshape(3, 6)
    assert np.array_equal(ids, tried.reshape(3, 6, 8)[np.arange(3), nats.argmin(dim=1).numpy()])
    assert (ids[given.known] == given.ids[given.known]).all() and calls.tolist() == taken.reshape(3, 6).sum(axis=1).tolist()
    assert len({tuple(row) for row in tried[:6]}) > 1
    alone, _ = fill_gaps(denoiser, table, given, np.random.default_rng(1), 1.0, 1)
    assert np.array_equal(alone, sample_ids(denoiser, table, given, np.random.default_rng(1), 1.0)[0])
