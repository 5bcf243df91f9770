from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sunfish.sampling.solvers import COLUMNS, SAMPLERS, Given, Table, ddim, ddpm, dpm_solver, make_table
from sunfish.diffusion.schedule import linear_beta, uniform
from tests.oracles import MEAN, STD, Toy, drawn, end_of, gaussian_denoiser, gaussian_flow, walk_all

LAW = uniform(-9, 16, 2)


@pytest.mark.parametrize(("make", "order"), [(ddim, 1), (dpm_solver, 2)])
def test_order_of_convergence_on_gaussian_data(make, order: int) -> None:
    x_1 = np.linspace(-2, 2, 9).reshape(1, 9, 1)
    steps = np.array([40, 80, 160, 320])
    errors = [np.abs(end_of(make(LAW, int(n)), x_1) - gaussian_flow(x_1, LAW)).max() for n in steps]
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpm-solver"])
def test_samples_have_the_data_s_mean_and_spread(name: str, rng: np.random.Generator) -> None:
    shape = (40_000, 1, 1)
    toy = Toy(lambda: rng.standard_normal(shape))
    walk_all(make_table(name, LAW, 200), toy, Given.nothing(*shape[:2]))
    assert toy.x_0_hat.mean() == pytest.approx(MEAN, abs=0.02)
    assert toy.x_0_hat.std() == pytest.approx(STD, abs=0.02)


@pytest.mark.parametrize(("name", "error"), [("ancestral", 0.0), ("ddpm", 0.1)])
def test_drawn_tokens_come_as_often_as_they_should_however_few_the_steps(name: str, error: float) -> None:
    """One position by itself, four tokens, the exact denoiser: three steps are exact with drawn tokens and
    far off with their mean.
    """
    rng, table, shares = np.random.default_rng(0), np.eye(4) * 2.0, np.array([0.55, 0.3, 0.1, 0.05])

    def denoise(x: Tensor, logsnr: np.ndarray, _: Tensor) -> tuple[Tensor, Tensor]:
        a, s = np.sqrt(1 / (1 + np.exp(-logsnr))), np.sqrt(1 / (1 + np.exp(logsnr)))
        logits = torch.from_numpy(np.log(shares)) + x @ torch.from_numpy(table).T * torch.from_numpy(a / s**2)
        return logits.softmax(-1) @ torch.from_numpy(table), logits

    num = 40_000
    toy = Toy(lambda: rng.standard_normal((num, 1, 4)), denoise, table)
    walk_all(make_table(name, uniform(-11, 6), 3), toy, Given.nothing(num, 1))
    found = np.bincount(toy.look().ids[:, 0], minlength=4) / num
    distance = 0.5 * np.abs(found - shares).sum()
    assert distance < 0.01 if error == 0 else distance > error


def test_ddpm_is_ddim_with_eta_one() -> None:
    law = linear_beta()
    for a, b in zip(vars(ddpm(law)).values(), vars(ddim(law, 1000, eta=1.0)).values(), strict=True):
        assert np.array_equal(a, b)


def test_ddpm_rows_are_the_posterior_of_the_paper() -> None:
    table, betas = ddpm(linear_beta()), np.linspace(1e-4, 0.02, 1000)[::-1]
    abar = np.cumprod(1 - betas[::-1])[::-1]
    before = np.append(abar[1:], 1.0)
    np.testing.assert_allclose(table.c_0, np.sqrt(before) * betas / (1 - abar), rtol=1e-9)
    np.testing.assert_allclose(table.c_n**2, betas * (1 - before) / (1 - abar), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(("steps", "eta"), [(1000, 0.0), (1000, 1.0), (1000, 0.4)])
def test_parity_with_diffusers(steps: int, eta: float) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="linear",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="leading",
    )
    scheduler.alphas_cumprod = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    scheduler.set_timesteps(steps)
    rng = np.random.default_rng(0)
    x_1 = rng.standard_normal((1, 6, 1))
    noises = rng.standard_normal((steps, 1, 6, 1))
    theirs = torch.from_numpy(x_1)
    for i, t in enumerate(scheduler.timesteps):
        abar = float(scheduler.alphas_cumprod[t])
        x_0_hat, _ = gaussian_denoiser(theirs, np.log(abar / (1 - abar)), theirs)
        eps = (theirs - abar**0.5 * x_0_hat) / (1 - abar) ** 0.5
        theirs = scheduler.step(
            eps, t, theirs, eta=eta, variance_noise=torch.from_numpy(noises[i])
        ).prev_sample
    table = ddim(linear_beta(), steps, eta)
    toy = Toy(drawn(iter([x_1, *noises])))
    walk_all(table, toy, Given.nothing(1, 6))
    np.testing.assert_allclose(toy.x_0_hat, theirs.numpy(), atol=1e-10)


@pytest.mark.parametrize("name", SAMPLERS)
def test_known_positions_stay(name: str, rng: np.random.Generator) -> None:
    shape, seen = (1, 5, 2), []
    embeddings = rng.standard_normal((3, 2))
    given = Given(np.array([[2, 0, 1, 0, 0]]), np.array([[True, False, True, False, False]]))

    def denoise(x: Tensor, logsnr: np.ndarray, previous: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(x.numpy())
        return x * 0.3, x

    table = make_table(name, LAW, 10)
    walk_all(
        table,
        Toy(lambda: rng.standard_normal(shape), denoise, embeddings),
        given,
        table.places(given.known, rng),
    )
    assert len(seen) == (
        2 if name == "picard" else 10
    )  # nothing here depends on other words, so the second call says the same
    assert all(np.array_equal(x[given.known], embeddings[[2, 1]]) for x in seen)


EMBEDDINGS = np.eye(3)


def confident(x: Tensor, logsnr: np.ndarray, _: Tensor) -> tuple[Tensor, Tensor]:
    """Sure of token k at position k, and the surer the less noise there is; the first position soonest."""
    logits = EMBEDDINGS[None] * (logsnr - np.array([-5.0, 0.0, 5.0])[None, :, None])
    return torch.zeros_like(x), torch.from_numpy(logits)


def test_positions_settle_in_the_order_of_their_certainty_and_stay(rng: np.random.Generator) -> None:
    seen = []

    def denoise(x: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
        seen.append((toy.state.known[0].tolist(), x[0].numpy()))
        return confident(x, *rest)

    table = make_table("ddpm", LAW, 100, settle_above=0.9)
    toy = Toy(lambda: rng.standard_normal((1, 3, 3)), denoise, EMBEDDINGS)
    steps = walk_all(table, toy, Given.nothing(1, 3))
    orders = [known for i, (known, _) in enumerate(seen) if i == 0 or known != seen[i - 1][0]]
    assert orders == [[False] * 3, [True, False, False], [True, True, False]]
    assert all(np.array_equal(x[known], EMBEDDINGS[known]) for known, x in seen)
    assert toy.look().known.all() and toy.look().ids.tolist() == [[0, 1, 2]]
    assert steps < len(table)  # nothing was left to decide


def test_a_row_is_what_the_table_says() -> None:
    table = make_table("dpm-solver", LAW, 5, settle_above=0.7)
    wait, *rows = table.rows()
    assert wait.tolist() == [
        LAW.logsnr[-1],
        1.0,
        0.0,
        0.0,
        0.0,
        0.7,
        0.0,
        1.0,
        0.0,
    ]  # stand still, at pure noise
    for column, name in zip(np.transpose(rows), COLUMNS, strict=True):
        wanted = np.array(np.broadcast_to(0.0 if name == "waits" else getattr(table, name), 5))
        wanted[-1] = 0.0 if name == "settle_above" else wanted[-1]  # all settle at their last row
        assert np.array_equal(column, wanted)


def test_what_is_given_is_not_settled_anew_and_1_means_never(rng: np.random.Generator) -> None:
    given = Given(np.array([[2, 0, 0]]), np.array([[True, False, False]]))
    toy = Toy(lambda: rng.standard_normal((1, 3, 3)), confident, EMBEDDINGS)
    walk_all(make_table("ddim", LAW, 50, settle_above=0.9), toy, given)
    assert toy.look().ids.tolist() == [[2, 1, 2]]
    unsure = []

    def denoise(*told: object) -> tuple[Tensor, Tensor]:
        unsure.append(not toy.state.known.any())
        return confident(*told)

    toy = Toy(lambda: rng.standard_normal((1, 3, 3)), denoise, EMBEDDINGS)
    assert walk_all(make_table("ddim", LAW, 50), toy, Given.nothing(1, 3)) == 50
    assert all(unsure) and toy.look().known.all()  # none before the last row, all at it


def test_the_last_row_lands_on_the_estimate() -> None:
    for name in SAMPLERS:
        table: Table = make_table(name, LAW, 10)
        assert (table.c_x[-1], table.c_0[-1], table.c_p[-1], table.c_n[-1]) == (0.0, 1.0, 0.0, 0.0)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown sampler 'euler'"):
        make_table("euler", LAW, 10)
    with pytest.raises(ValueError, match="settle must lie above 0"):
        make_table("ddim", LAW, 10, settle_above=0.0)
    with pytest.raises(ValueError, match="more than 10,000"):
        make_table("ddim", LAW, 20_000)
    with pytest.raises(ValueError, match="eta must lie between"):
        ddim(LAW, 10, eta=1.5)
