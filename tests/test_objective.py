from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from sunfish.model.denoiser import Denoiser, init_weights
from sunfish.errors import InvalidValue
from sunfish.diffusion.schedule import uniform
from sunfish.config.schema.diffusion import Blocks, Known
from sunfish.stagger import ORDERS
from sunfish.text.shards import Shards
from sunfish.training import gate, loop
from sunfish.diffusion.conditioning import draw_known, draw_step
from sunfish.training.parallel import make_fabric
from sunfish.training.loss import DiffusionLoss
from tests.runs import batch
from tests.test_model import SMALL, make

MIXED = Known(row_share=0.5, prefix=1.0, span=1.0, scattered=1.0, blind_share=0.0)


def test_known_positions_get_no_loss(params: dict, shards: Shards) -> None:
    everything_but_one = np.ones((8, 96), bool)
    everything_but_one[:, 5] = False
    ids = batch(params, shards)
    prior_free = dataclasses.replace(
        params["model"], output_prior=False
    )  # so that the zero head knows nothing
    at_once = dataclasses.replace(params["diffusion"], blocks=None)
    run = loop.start_run(
        make_fabric(params["launch"]), prior_free, at_once, params["pretrain"], shards.vocab_size
    )
    draws = draw_step(run.diffusion, 0, 0, 8, 96)._replace(known=everything_but_one)
    levels = run.law.logsnr_at(draws.times)
    total, losses = run.model(ids, draws, levels, run.law.density(levels))
    assert torch.allclose(losses, torch.full((8, 96), math.log(shards.vocab_size)), rtol=0.01)
    assert float(total) == pytest.approx(math.log(shards.vocab_size) / 96, rel=0.01)


def test_elbo_is_the_bound_and_its_sisters_are_squares(params: dict) -> None:
    """Tokens drawn evenly, the denoiser ideal: the mean of `elbo` over all noise levels is their entropy."""
    law, rng, sums = (
        uniform(-14, 8, 50),
        np.random.default_rng(0),
        dict.fromkeys(("elbo", "x0_mse", "eps_mse"), 0.0),
    )
    for name in sums:
        section = dataclasses.replace(params["diffusion"], objective=name, self_conditioning=0.0, blocks=None)
        section = dataclasses.replace(section, known=gate.NOTHING_KNOWN)
        loss = DiffusionLoss(make(), section)
        for step in range(20):
            draws = draw_step(section, 0, step, 128, 8)
            levels = law.logsnr_at(draws.times)
            value, seen = loss(rng.integers(11, size=(128, 8)), draws, levels, law.density(levels))
            sums[name] += float(value.detach()) / 20
            assert torch.isfinite(seen).all() and seen.shape == (128, 8)
    assert sums["elbo"] == pytest.approx(math.log(11), rel=0.05)
    assert (
        0.0 < sums["x0_mse"] < 1.0 and 0.0 < sums["eps_mse"] < 1.0
    )  # embeddings and noise have unit variance


BLOCKS = Blocks(
    order="forward",
    size_max=6,
    one_clock=0.5,
    blind_share=0.2,
    told_share=1.0,
    noisy_share=1.0,
    next_token=1.0,
)


@pytest.mark.parametrize("order", ORDERS)
def test_a_block_sees_what_comes_before_it_and_what_is_done_of_it(params: dict, order: str) -> None:
    section = dataclasses.replace(
        params["diffusion"], blocks=dataclasses.replace(BLOCKS, order=order), known=MIXED
    )
    draws = draw_step(section, 0, 0, 64, 20)
    assert draws.free.any() and not draws.free.all()
    unknown = ~draws.known
    for place, start, open_, times in zip(draws.place, draws.start, unknown, draws.times, strict=True):
        assert sorted(place[place > 0]) == list(range(1, (place > 0).sum() + 1)) and (place[open_] > 0).all()
        for first in np.unique(start[open_]):
            block = np.sort(place[open_ & (start == first)])
            assert (
                block[0] == first and (np.diff(block) == 1).all() and len(block) <= 6
            )  # in one piece, from where it begins to be open
            clocks = times[open_ & (start == first)][np.argsort(place[open_ & (start == first)])]
            assert (np.diff(clocks) >= 0).all()  # in order
        assert (start[~open_] > place[~open_]).all()  # what is done sees itself
    blind = (draws.times == 1.0)[unknown].mean()
    assert 0.2 < blind < 0.6 and 0.3 < draws.deciding.mean() / unknown.mean() < 0.8
    part = draws.part(slice(16, 32))
    assert np.array_equal(part.times, draws.times[16:32]) and part.place.shape == (16, 20)


def test_next_tokens_are_asked_for_where_they_were_not_seen(params: dict) -> None:
    """A denoiser that knows nothing pays log V for each: of positions whose next one comes later, and of open
    ones.
    """
    section = dataclasses.replace(params["diffusion"], blocks=BLOCKS, known=MIXED, self_conditioning=0.0)
    model, rng = dataclasses.replace(SMALL, output_prior=False), np.random.default_rng(0)
    denoiser = Denoiser(model, 11)
    init_weights(denoiser, 0)
    draws = draw_step(section, 0, 0, 32, 10)
    loss, nats = DiffusionLoss(denoiser, section)(
        rng.integers(11, size=(32, 10)), draws, np.zeros((32, 10)), np.ones((32, 10))
    )
    asked = (draws.place[:, 1:] > draws.place[:, :-1]).sum() + (~draws.known).sum()
    assert float(loss) == pytest.approx(asked / 320 * math.log(11), rel=1e-5) and nats.shape == (32, 10)


def test_rows_without_a_noisy_copy_are_asked_what_comes_next_alone(params: dict) -> None:
    """The loss of a mixed batch is the noisy rows' own, as if all had been noisy, and the others' next
    tokens.
    """
    section = dataclasses.replace(
        params["diffusion"], blocks=dataclasses.replace(BLOCKS, noisy_share=0.3), known=MIXED
    )
    denoiser, rng = make(), np.random.default_rng(0)
    with torch.no_grad():
        denoiser.head.weight.normal_(generator=torch.Generator().manual_seed(0))
    ids, levels = rng.integers(11, size=(20, 10)), np.full((20, 10), -2.0)
    draws = draw_step(section, 0, 0, 20, 10)
    estimated = draw_step(dataclasses.replace(section, self_conditioning=0.5), 0, 0, 20, 10).estimated
    assert estimated.sum() == 3 and not estimated[~draws.noisy].any()
    assert (
        draws.noisy.sum() == 6 and draws.noisy[0] and np.diff(np.flatnonzero(draws.noisy)).max() == 4
    )  # spread over all parts
    loss, seen = DiffusionLoss(denoiser, section)(ids, draws, levels, np.ones((20, 10)))

    def of(rows: np.ndarray, next_token: float) -> tuple[torch.Tensor, torch.Tensor]:
        """All of a batch in two copies, of which only some rows' noisy ones count."""
        blocks = dataclasses.replace(BLOCKS, next_token=next_token)
        told = draws._replace(noisy=np.ones(20, bool), known=draws.known | ~rows[:, None])
        return DiffusionLoss(denoiser, dataclasses.replace(section, blocks=blocks))(
            ids, told, levels, np.ones((20, 10))
        )

    noisy, nats = of(draws.noisy, 0.0)
    following, _ = of(np.zeros(20, bool), 1.0)
    assert float(loss) == pytest.approx(float(noisy) / 0.3 + float(following), rel=1e-4)
    torch.testing.assert_close(seen[draws.noisy], nats[draws.noisy], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("rows", "alone"), [(1, 0), (2, 0), (3, 2), (4, 2), (8, 6)])
def test_clean_rows_come_in_pairs(params: dict, rows: int, alone: int) -> None:
    section = dataclasses.replace(
        params["diffusion"], blocks=dataclasses.replace(BLOCKS, noisy_share=0.25), known=MIXED
    )
    draws = draw_step(section, 0, 0, rows, 10)
    twice, clean = draws.shared_out()
    assert (
        len(clean) == alone and sorted([*twice, *clean]) == list(range(rows)) and not draws.noisy[clean].any()
    )
    loss, _ = DiffusionLoss(make(), section)(
        np.zeros((rows, 10), np.int64), draws, np.zeros((rows, 10)), np.ones((rows, 10))
    )
    assert torch.isfinite(loss)


def test_clean_rows_must_be_asked_something() -> None:
    with pytest.raises(InvalidValue, match="must be above 0 with a noisy_share below 1"):
        dataclasses.replace(BLOCKS, noisy_share=0.5, next_token=0.0)
    with pytest.raises(InvalidValue, match="something must be denoised"):
        dataclasses.replace(BLOCKS, noisy_share=0.0)


def test_known_masks_are_of_three_kinds_and_never_everything() -> None:
    rng = np.random.default_rng(0)
    assert not draw_known(
        Known(row_share=0.0, prefix=1, span=0, scattered=0, blind_share=0.0), 50, 20, rng
    ).any()
    prefix = draw_known(Known(row_share=1.0, prefix=1, span=0, scattered=0, blind_share=0.0), 200, 20, rng)
    assert (np.diff(prefix.astype(int), axis=1) <= 0).all() and not prefix.all(axis=1).any()
    span = draw_known(Known(row_share=1.0, prefix=0, span=1, scattered=0, blind_share=0.0), 200, 20, rng)
    assert (np.abs(np.diff(span.astype(int), axis=1)).sum(axis=1) <= 2).all() and not span.all(axis=1).any()
    scattered = draw_known(Known(row_share=1.0, prefix=0, span=0, scattered=1, blind_share=0.0), 500, 20, rng)
    assert not scattered.all(axis=1).any() and 0.4 < scattered.mean() < 0.55
