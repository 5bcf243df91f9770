from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from sunfish.config.schema.diffusion import KnownConfig
from sunfish.diffusion.conditioning import draw_known, draw_randomness, evenly_spaced
from sunfish.diffusion.objectives import OBJECTIVES
from sunfish.diffusion.schedule import uniform
from sunfish.errors import InvalidValue
from sunfish.training.loss import DiffusionLoss
from tests.builders import CE, NOTHING_KNOWN, make_denoiser

PLAIN_CE = dataclasses.replace(CE, check_weight=0.0, self_conditioning=0.0)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_of_the_ideal_denoiser(name: str) -> None:
    """Tokens drawn evenly: the mean of `elbo` over all noise levels is their entropy; embeddings and noise
    have unit variance.
    """
    schedule, rng, total = uniform(-14, 8, 50), np.random.default_rng(0), 0.0
    config = dataclasses.replace(PLAIN_CE, objective=name)
    loss = DiffusionLoss(make_denoiser(), config)
    for step in range(20):
        randomness = draw_randomness(config, 0, step, 128, 8)
        levels = schedule.logsnr_at(randomness.times)
        found = loss(rng.integers(11, size=(128, 8)), randomness, levels, schedule.density(levels))
        total += float(found.total.detach()) / 20
        assert found.observed.isfinite().all() and found.observed.shape == (128, 8)
    if name == "elbo":
        assert total == pytest.approx(math.log(11), rel=0.05)
    elif name == "ce":
        assert 0.0 < total < math.log(11)
    else:
        assert 0.0 < total < 1.0


def test_rows_of_pure_noise_are_no_part_of_the_bound() -> None:
    loss = DiffusionLoss(make_denoiser(), dataclasses.replace(PLAIN_CE, objective="elbo"))
    randomness, ids = draw_randomness(PLAIN_CE, 0, 0, 4, 6), np.zeros((4, 6), np.int64)
    assert loss(ids, randomness, np.full(4, -3.0), np.zeros(4)).total.item() == 0.0


def test_frozen_embeddings_learn_no_check() -> None:
    with pytest.raises(InvalidValue, match="check_weight must be 0 under eps_mse"):
        dataclasses.replace(CE, objective="eps_mse")
    with pytest.raises(InvalidValue, match="objective must be one of ce, elbo"):
        dataclasses.replace(CE, objective="crossentropy")


def kind(name: str, conditioned: float = 1.0) -> KnownConfig:
    weights = {each: float(each == name) for each in ("prefix", "suffix", "span", "scattered")}
    return KnownConfig(conditioned_fraction=conditioned, pure_noise_fraction=0.0, **weights)


def test_known_masks_are_of_four_kinds_and_never_everything(rng: np.random.Generator) -> None:
    assert not draw_known(kind("prefix", 0.0), 50, 20, rng).any()
    kinds = ("prefix", "suffix", "span", "scattered")
    prefix, suffix, span, scattered = (draw_known(kind(name), 300, 20, rng) for name in kinds)
    assert (np.diff(prefix.astype(int), axis=1) <= 0).all()
    assert (np.diff(suffix.astype(int), axis=1) >= 0).all()
    assert (np.abs(np.diff(span.astype(int), axis=1)).sum(axis=1) <= 2).all()
    assert 0.4 < scattered.mean() < 0.55
    assert not any(mask.all(axis=1).any() for mask in (prefix, suffix, span, scattered))


def test_a_part_of_the_batch_draws_what_the_batch_draws() -> None:
    config = dataclasses.replace(
        CE, known=dataclasses.replace(kind("scattered", 0.5), pure_noise_fraction=0.3)
    )
    whole = draw_randomness(config, 3, 7, 32, 10)
    part = whole.part(slice(8, 16)).part(slice(4, 8))
    assert np.array_equal(part.times, whole.times[12:16]) and part.first_row == 12
    assert np.array_equal(part.known, whole.known[12:16]) and part.noise_seed == whole.noise_seed
    assert set(whole.times[~whole.is_intermediate]) == {1.0}
    assert not (whole.is_unconditional & ~whole.is_intermediate).any()  # pure noise is for conditioned rows
    assert draw_randomness(config, 3, 8, 32, 10).noise_seed != whole.noise_seed


@pytest.mark.parametrize(
    ("fraction", "rows"), [(0.0, []), (0.25, [0, 4]), (0.5, [0, 2, 4, 6]), (1.0, [*range(8)])]
)
def test_self_conditioned_rows_are_evenly_spaced(fraction: float, rows: list[int]) -> None:
    assert np.flatnonzero(evenly_spaced(8, fraction)).tolist() == rows


def test_nothing_known_is_unconditional() -> None:
    assert draw_randomness(PLAIN_CE, 0, 0, 16, 5).is_unconditional.all()
    assert NOTHING_KNOWN.conditioned_fraction == 0.0
