from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from sunfish.config.schema.sampler import SamplerConfig
from sunfish.diffusion.schedule import NoiseSchedule, alpha, linear_beta, sigma, uniform
from sunfish.errors import InvalidValue
from sunfish.sampling.solvers import SAMPLERS, SolverTable, time_grid
from tests.builders import PLAIN
from tests.oracles import MEAN, STD, ToyDenoiser, gaussian_denoiser, gaussian_flow, walk

WIDE = uniform(-9, 16, 2)


def table_of(name: str, schedule: NoiseSchedule, steps: int, **changes: float) -> SolverTable:
    config = dataclasses.replace(PLAIN, name=name, **changes)
    return SAMPLERS[name](time_grid(schedule), steps, config)


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpmpp-2m", 2), ("heun", 2)])
def test_order_of_convergence_on_gaussian_data(name: str, order: int) -> None:
    x_1 = np.linspace(-2, 2, 9).reshape(1, 9, 1)
    steps = np.array([41, 81, 161, 321])
    exact = gaussian_flow(x_1, WIDE)
    landed = [walk(table_of(name, WIDE, int(n)), ToyDenoiser(), x_1).x.numpy() for n in steps]
    errors = [np.abs(x - exact).max() for x in landed]
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("name", ["ddpm", "churn", "ddim"])
def test_samples_have_the_data_s_mean_and_spread(name: str, rng: np.random.Generator) -> None:
    shape = (20_000, 1, 1)
    table = table_of(name, WIDE, 200, churn=0.02)
    noises = (rng.standard_normal(shape) for _ in range(200))
    x_0 = walk(table, ToyDenoiser(), rng.standard_normal(shape), noises).x
    assert float(x_0.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(x_0.std()) == pytest.approx(STD, abs=0.02)


def test_churn_converges_in_distribution(rng: np.random.Generator) -> None:
    """Without noise in numbers: mean and variance follow each row exactly, since all is linear."""

    def spread(steps: int) -> float:
        table, mean, variance = table_of("churn", WIDE, steps, churn=0.5 / steps), 0.0, 1.0
        for level, c_x, c_0, _, c_n in table.rows:
            a, s = float(alpha(level)), float(sigma(level))
            gain = a * STD**2 / (a**2 * STD**2 + s**2)
            mean = c_x * mean + c_0 * (MEAN + gain * (mean - a * MEAN))
            variance = (c_x + c_0 * gain) ** 2 * variance + c_n**2
        return abs(mean - MEAN) + abs(np.sqrt(variance) - STD)

    errors = [spread(steps) for steps in (50, 100, 200, 400)]
    assert all(after < 0.7 * before for before, after in zip(errors, errors[1:], strict=False))


@pytest.mark.parametrize(("name", "least", "most"), [("ddpm-categorical", 0.0, 0.02), ("ddpm", 0.1, 1.0)])
def test_drawn_tokens_have_the_right_shares_however_few_the_steps(
    name: str, least: float, most: float
) -> None:
    """One position by itself, the exact denoiser: drawn tokens are exact in three steps, their mean is far
    off.
    """
    rng, embeddings, shares = np.random.default_rng(0), np.eye(4) * 2.0, np.array([0.55, 0.3, 0.1, 0.05])
    vectors = torch.from_numpy(embeddings)

    def denoise(x: Tensor, logsnr: float) -> tuple[Tensor, Tensor]:
        logits = torch.from_numpy(np.log(shares)) + x @ vectors.T * float(alpha(logsnr) / sigma(logsnr) ** 2)
        return logits.softmax(-1) @ vectors, logits

    shape, table = (20_000, 1, 4), table_of(name, uniform(-11, 6), 3)
    noises = (rng.standard_normal(shape) for _ in range(3))
    tokens = walk(table, ToyDenoiser(denoise, embeddings), rng.standard_normal(shape), noises).tokens
    found = np.bincount(tokens[:, 0].numpy(), minlength=4) / len(tokens)
    assert least <= 0.5 * np.abs(found - shares).sum() < most


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 11])
def test_a_table_has_exactly_the_steps_asked_for_and_lands_on_the_estimate(name: str, steps: int) -> None:
    table = table_of(name, uniform(-11, 4), steps, churn=0.1)
    assert len(table) == len(table.rows) == steps and np.isfinite(table.rows).all()
    assert table.rows[-1, 1:].tolist() == [0.0, 1.0, 0.0, 0.0]
    assert table.logsnr[0] == -11.0  # from pure noise


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_row_keeps_a_clean_position_on_the_noise_free_line(name: str) -> None:
    """x = alpha x_0 stays so under a perfect estimate: the coefficients of x and of both estimates add up."""
    table = table_of(name, uniform(-11, 4), 9, churn=0.1)
    after = np.append(alpha(table.logsnr[1:]), 1.0)
    np.testing.assert_allclose(table.c_x * alpha(table.logsnr) + table.c_0 + table.c_p, after, atol=1e-9)


def test_ddpm_is_ddim_with_eta_one_and_the_posterior_of_the_paper() -> None:
    table, betas = table_of("ddpm", linear_beta(), 1000), np.linspace(1e-4, 0.02, 1000)[::-1]
    assert np.array_equal(table.rows, table_of("ddim", linear_beta(), 1000, eta=1.0).rows)
    abar = np.cumprod(1 - betas[::-1])[::-1]
    before = np.append(abar[1:], 1.0)
    np.testing.assert_allclose(table.c_0, np.sqrt(before) * betas / (1 - abar), rtol=1e-9)
    np.testing.assert_allclose(table.c_n**2, betas * (1 - before) / (1 - abar), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_parity_with_diffusers(eta: float) -> None:
    diffusers = pytest.importorskip("diffusers")
    steps = 1000
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=steps, beta_schedule="linear", clip_sample=False, set_alpha_to_one=True,
        timestep_spacing="leading",
    )  # fmt: skip
    betas = torch.linspace(1e-4, 0.02, steps, dtype=torch.float64)
    scheduler.alphas_cumprod = torch.cumprod(1 - betas, 0)
    scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    scheduler.set_timesteps(steps)
    rng = np.random.default_rng(0)
    x_1, noises = rng.standard_normal((1, 6, 1)), rng.standard_normal((steps, 1, 6, 1))
    theirs = torch.from_numpy(x_1)
    for noise, t in zip(noises, scheduler.timesteps, strict=True):
        abar = float(scheduler.alphas_cumprod[t])
        x_0_hat, _ = gaussian_denoiser(theirs, np.log(abar / (1 - abar)))
        eps = (theirs - abar**0.5 * x_0_hat) / (1 - abar) ** 0.5
        moved = scheduler.step(eps, t, theirs, eta=eta, variance_noise=torch.from_numpy(noise))
        theirs = moved.prev_sample
    ours = walk(table_of("ddim", linear_beta(), steps, eta=eta), ToyDenoiser(), x_1, noises).x
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


def test_a_grid_may_begin_between_noise_and_data() -> None:
    assert time_grid(uniform(-10, 10), 0.5)(3).tolist() == [0.0, 5.0, 10.0]


BAD = [
    ({"name": "euler"}, "name must be one of ddpm"),
    ({"steps": 0}, "steps must lie between 1 and 10,000"),
    ({"steps": 20_000}, "steps must lie between"),
    ({"eta": 1.5}, "eta must lie between"),
    ({"temperature": float("nan")}, "temperature must be a number above 0"),
    ({"confidence_threshold": 0.0}, "confidence_threshold must lie above 0"),
    ({"epsilon_cutoff": 1.0}, "epsilon_cutoff must be"),
]


@pytest.mark.parametrize(("changes", "says"), BAD)
def test_bad_settings_are_refused(changes: dict, says: str) -> None:
    with pytest.raises(InvalidValue, match=says):
        dataclasses.replace(PLAIN, **changes)


def test_a_configuration_comes_back_from_plain_values() -> None:
    assert SamplerConfig.from_dict(PLAIN.to_dict()) == PLAIN
    with pytest.raises(InvalidValue, match="is incomplete"):
        SamplerConfig.from_dict({"name": "ddim"})
