from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from sunfish.sampler import SAMPLERS, Given, Step, Table, ddim, ddpm, dpm_solver, last_step, make_table, walk
from sunfish.schedule import linear_beta, uniform
from tests.oracles import MEAN, STD, Toy, end_of, gaussian_denoiser, gaussian_flow

LAW = uniform(-9, 16, 2)


@pytest.mark.parametrize(("make", "order"), [(ddim, 1), (dpm_solver, 2)])
def test_order_of_convergence_on_gaussian_data(make, order: int) -> None:
    x_1 = np.linspace(-2, 2, 9).reshape(1, 9, 1)
    steps = np.array([40, 80, 160, 320])
    errors = [np.abs(end_of(make(LAW, int(n)), x_1) - gaussian_flow(x_1, LAW)).max() for n in steps]
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_have_the_data_s_mean_and_spread(name: str, rng: np.random.Generator) -> None:
    shape = (1, 40_000, 1)
    *_, last = walk(make_table(name, LAW, 200), Toy(lambda: rng.standard_normal(shape)), Given.nothing(*shape[:2]))
    assert last.x_0_hat.mean() == pytest.approx(MEAN, abs=0.02)
    assert last.x_0_hat.std() == pytest.approx(STD, abs=0.02)


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
    torch = pytest.importorskip("torch")
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=1000, beta_schedule="linear", clip_sample=False, set_alpha_to_one=True, timestep_spacing="leading"
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
        x_0_hat, _ = gaussian_denoiser(theirs.numpy(), np.log(abar / (1 - abar)), theirs)
        eps = (theirs - abar**0.5 * torch.from_numpy(x_0_hat)) / (1 - abar) ** 0.5
        theirs = scheduler.step(eps, t, theirs, eta=eta, variance_noise=torch.from_numpy(noises[i])).prev_sample
    table = ddim(linear_beta(), steps, eta)
    drawn = iter([x_1, *noises])
    *_, last = walk(table, Toy(lambda: next(drawn)), Given.nothing(1, 6))
    np.testing.assert_allclose(last.x_0_hat, theirs.numpy(), atol=1e-10)


@pytest.mark.parametrize("name", SAMPLERS)
def test_known_positions_stay(name: str, rng: np.random.Generator) -> None:
    shape, seen = (1, 5, 2), []
    embeddings = rng.standard_normal((3, 2))
    given = Given(np.array([[2, 0, 1, 0, 0]]), np.array([[True, False, True, False, False]]))

    def denoise(x: np.ndarray, logsnr: float, previous: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.append(x)
        return x * 0.3, x

    list(walk(make_table(name, LAW, 10), Toy(lambda: rng.standard_normal(shape), denoise, embeddings), given))
    assert len(seen) == 10 and all(np.array_equal(x[given.known], embeddings[[2, 1]]) for x in seen)


EMBEDDINGS = np.eye(3)


def confident(x: np.ndarray, logsnr: float, _: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sure of token k at position k, and the surer the less noise there is; the first position soonest."""
    logits = EMBEDDINGS[None] * (logsnr - np.array([-5.0, 0.0, 5.0])[None, :, None])
    return np.zeros_like(x), logits


def test_positions_settle_in_the_order_of_their_certainty_and_stay(rng: np.random.Generator) -> None:
    given, seen = Given.nothing(1, 3), []

    def denoise(x: np.ndarray, *rest: object) -> tuple[np.ndarray, np.ndarray]:
        seen.append((given.known[0].tolist(), x[0].copy()))
        return confident(x, *rest)

    table = make_table("ddpm", LAW, 100, settle_above=0.9)
    steps = list(walk(table, Toy(lambda: rng.standard_normal((1, 3, 3)), denoise, EMBEDDINGS), given))
    orders = [known for i, (known, _) in enumerate(seen) if i == 0 or known != seen[i - 1][0]]
    assert orders == [[False] * 3, [True, False, False], [True, True, False]]
    assert all(np.array_equal(x[known], EMBEDDINGS[known]) for known, x in seen)
    assert given.known.all() and given.ids.tolist() == [[0, 1, 2]]
    assert len(steps) < len(table)  # nothing was left to decide
    assert given.text(np.full((1, 3), 9)).tolist() == [[0, 1, 2]]


def test_the_last_step_is_had_without_keeping_the_others() -> None:
    import weakref

    class Logits:
        pass

    alive: list[weakref.ref] = []

    def steps() -> Iterator[Step]:
        for index in range(5):
            logits = Logits()
            alive.append(weakref.ref(logits))
            assert sum(ref() is not None for ref in alive) <= 2
            yield Step(index, None, logits)

    assert last_step(steps()).index == 4


def test_what_is_given_is_not_settled_anew_and_1_means_never(rng: np.random.Generator) -> None:
    given = Given(np.array([[2, 0, 0]]), np.array([[True, False, False]]))
    network = Toy(lambda: rng.standard_normal((1, 3, 3)), confident, EMBEDDINGS)
    list(walk(make_table("ddim", LAW, 50, settle_above=0.9), network, given))
    assert given.ids.tolist() == [[2, 1, 2]]
    never = Given.nothing(1, 3)
    assert len(list(walk(make_table("ddim", LAW, 50), network, never))) == 50 and not never.known.any()


def test_the_last_row_lands_on_the_estimate() -> None:
    for name in SAMPLERS:
        table: Table = make_table(name, LAW, 10)
        assert (table.c_x[-1], table.c_0[-1], table.c_p[-1], table.c_n[-1]) == (0.0, 1.0, 0.0, 0.0)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown sampler 'euler'"):
        make_table("euler", LAW, 10)
    with pytest.raises(ValueError, match="settle must lie above 0"):
        make_table("ddim", LAW, 10, settle_above=0.0)
    with pytest.raises(ValueError, match="eta must lie between"):
        ddim(LAW, 10, eta=1.5)
