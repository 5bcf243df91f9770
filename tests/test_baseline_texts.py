"""The comparators' texts are drawn from their own distribution and keep what is given."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.baselines.autoregressive import CachedDecoder, sample_autoregressive
from pipelines.baselines.loss import (
    BaselineLoss,
    masked_bound,
    without_scattered,
)
from pipelines.baselines.masked import sample_masked
from sunfish.config.schema.sampler import CheckConfig, SamplerConfig
from sunfish.diffusion.conditioning import draw_randomness
from sunfish.diffusion.schedule import uniform
from sunfish.model.baseline import (
    make_baseline,
    read_baseline,
)
from sunfish.sampling.loop import Conditioning, SamplerPlan
from tests.baselines import DIFFUSION, END, KNOWN, LENGTH, MODEL, VOCAB, scrambled, stored
from tests.oracles import surprise_margin

PLAIN = SamplerConfig(
    name="ddim", steps=6, eta=0.0, churn=0.0, temperature=1.0, confidence_threshold=1.0,
    epsilon_cutoff=0.0, check=None,
)  # fmt: skip
CHECKED = dataclasses.replace(
    PLAIN, check=CheckConfig(epsilon=0.5, steps=2, restart_time=0.5, max_rounds=None)
)


def plan_of(config: SamplerConfig) -> SamplerPlan:
    return SamplerPlan.make(config, uniform(-5.0, 5.0))


@pytest.mark.parametrize("tied_head", [True, False])
def test_sampling_with_a_cache_equals_sampling_without(tied_head: bool) -> None:
    baseline = scrambled("autoregressive", tied_head=tied_head)
    ids = torch.randint(VOCAB, (3, LENGTH), generator=torch.Generator().manual_seed(0))
    decoder, logits = CachedDecoder(baseline, 3, LENGTH), []
    with torch.no_grad():
        for position in range(LENGTH):
            logits.append(decoder.step())
            decoder.append(ids[:, position : position + 1])
        torch.testing.assert_close(torch.cat(logits, dim=1), baseline(ids), rtol=1e-4, atol=1e-5)


def test_autoregressive_texts_are_their_own_whatever_is_beside_them_and_end_once() -> None:
    baseline = scrambled("autoregressive")
    many = sample_autoregressive(baseline, Conditioning.nothing(40, LENGTH), np.random.default_rng(0), END)
    few = sample_autoregressive(baseline, Conditioning.nothing(3, LENGTH), np.random.default_rng(0), END)
    assert (many.ids[:3] == few.ids).all() and many.ids.max() < VOCAB
    for row, calls in zip(many.ids, many.calls, strict=True):
        ends = np.flatnonzero(row == END)
        assert calls == (ends[0] + 1 if len(ends) else LENGTH) and (row[calls:] == END).all()


def test_autoregressive_texts_keep_what_is_given_and_draw_the_rest_after_it() -> None:
    baseline, rng = scrambled("autoregressive"), np.random.default_rng(0)
    ids, known = rng.integers(1, VOCAB, size=(9, LENGTH)), np.arange(LENGTH) < 5
    given = Conditioning(ids, np.tile(known, (9, 1)))
    rows = sample_autoregressive(baseline, given, rng, temperature=1e-4).ids
    assert (rows[:, :5] == ids[:, :5]).all()
    with torch.no_grad():
        likeliest = baseline(torch.from_numpy(rows)).argmax(dim=-1).numpy()
    assert (rows[:, 5:] == likeliest[:, 5:]).all()


def test_the_cutoff_leaves_improbable_tokens_out() -> None:
    baseline = scrambled("autoregressive")
    nothing = Conditioning.nothing(50, LENGTH)
    rows = sample_autoregressive(baseline, nothing, np.random.default_rng(0), epsilon_cutoff=0.15).ids
    with torch.no_grad():
        probabilities = baseline(torch.from_numpy(rows)).softmax(dim=-1)
    drawn = probabilities.gather(2, torch.from_numpy(rows)[..., None]).squeeze(-1)
    assert ((drawn > 0.149) | (drawn >= probabilities.amax(dim=-1) - 1e-5)).all()


@pytest.mark.parametrize("steps", [1, 6, 20])
def test_masked_sampling_keeps_what_is_given_and_takes_the_steps_asked(steps: int) -> None:
    rng = np.random.default_rng(0)
    given = Conditioning(rng.integers(VOCAB, size=(5, LENGTH)), rng.random((5, LENGTH)) < 0.4)
    plan = plan_of(dataclasses.replace(PLAIN, steps=steps))
    sampled = sample_masked(scrambled("masked"), plan, given, np.random.default_rng(1))
    assert (sampled.ids[given.known] == given.ids[given.known]).all() and sampled.ids.max() < VOCAB
    assert (sampled.calls == steps).all() and (sampled.corrected == 0).all()


def test_masked_texts_are_independent_of_those_beside_them() -> None:
    baseline, plan = scrambled("masked"), plan_of(CHECKED)
    many = sample_masked(baseline, plan, Conditioning.nothing(9, LENGTH), np.random.default_rng(1))
    few = sample_masked(baseline, plan, Conditioning.nothing(2, LENGTH), np.random.default_rng(1))
    assert (many.ids[:2] == few.ids).all() and (many.calls[:2] == few.calls).all()


@pytest.mark.parametrize("restart_time", [0.3, 1.0])
def test_a_checked_masked_text_holds_only_what_passes(restart_time: float) -> None:
    baseline, check = scrambled("masked"), dataclasses.replace(CHECKED.check, restart_time=restart_time)
    plan = plan_of(dataclasses.replace(CHECKED, check=check))
    sampled = sample_masked(baseline, plan, Conditioning.nothing(30, LENGTH), np.random.default_rng(1))
    assert (surprise_margin(baseline, sampled.ids, 0.5) >= -1e-4).all()
    assert sampled.corrected.max() > 0 and (sampled.corrected <= LENGTH).all()
    rounds = sampled.calls - (6 + 1)
    assert (rounds % 3 == 0).all() and (rounds // 3 <= sampled.corrected).all()


def test_masks_disappear_evenly_in_time() -> None:
    """After half of the steps half of the positions are shown: alpha_t = 1 - t."""
    from pipelines.baselines.masked import MaskedBackend

    baseline, plan = scrambled("masked"), plan_of(dataclasses.replace(PLAIN, steps=10))
    backend = MaskedBackend(baseline, plan, np.random.default_rng(0).spawn(400))
    backend.start(Conditioning.nothing(400, LENGTH))
    with torch.no_grad():
        for index in range(5):
            backend.denoise(plan.draft, index)
    assert float((backend.ids == baseline.mask_id).float().mean()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("kind", ["autoregressive", "masked"])
def test_a_baseline_learns_two_texts_and_writes_them(kind: Any, tmp_path: Path) -> None:
    texts = np.array([[1, 2, 3, 4, END, END], [5, 6, 7, 8, 9, END]])
    baseline = make_baseline(MODEL, VOCAB, kind, 0)
    loss, ids = BaselineLoss(baseline, check_weight=1.0), np.repeat(texts, 8, axis=0)
    optimizer = torch.optim.AdamW(baseline.parameters(), lr=1e-2)
    diffusion = dataclasses.replace(DIFFUSION, known=without_scattered(KNOWN))
    for step in range(200):
        optimizer.zero_grad()
        loss(ids, draw_randomness(diffusion, 0, step, len(ids), 6)).backward()
        optimizer.step()
    again = read_baseline(stored(tmp_path, baseline, kind)).baseline
    rng, nothing = np.random.default_rng(0), Conditioning.nothing(20, 6)
    if kind == "masked":
        rows = sample_masked(again, plan_of(dataclasses.replace(CHECKED, steps=30)), nothing, rng).ids
        bound = float(masked_bound(again, torch.from_numpy(texts), 200, rng).mean())
        assert bound < 0.5 * 6 * math.log(VOCAB)
    else:
        rows = sample_autoregressive(again, nothing, rng, END, temperature=0.7, epsilon_cutoff=0.01).ids
    assert np.mean([(row == texts).all(axis=1).any() for row in rows]) > 0.8
