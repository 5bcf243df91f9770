from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sunfish.diffusion.schedule import (
    AdaptiveSchedule,
    NoiseSchedule,
    alpha,
    cosine,
    draw_times,
    linear_beta,
    sampling_times,
    sigma,
    uniform,
)

LAWS = [linear_beta(), cosine(-11, 4), uniform(-11, 4, 10)]


@given(st.floats(-40, 40))
def test_alpha_and_sigma_lie_on_the_circle(logsnr: float) -> None:
    assert alpha(logsnr) ** 2 + sigma(logsnr) ** 2 == pytest.approx(1.0, abs=1e-14)
    assert np.log(alpha(logsnr) ** 2 / sigma(logsnr) ** 2) == pytest.approx(logsnr, abs=1e-9)


@pytest.mark.parametrize("law", LAWS)
@given(t=st.floats(0, 1))
def test_time_to_logsnr_and_back(law: NoiseSchedule, t: float) -> None:
    assert law.t_at(law.logsnr_at(t)) == pytest.approx(t, abs=1e-9)


@pytest.mark.parametrize("law", LAWS)
def test_the_density_integrates_to_one(law: NoiseSchedule) -> None:
    edges = np.linspace(law.logsnr[-1], law.logsnr[0], 200_001)
    centres = 0.5 * (edges[1:] + edges[:-1])
    assert law.density(centres).sum() * (edges[1] - edges[0]) == pytest.approx(1.0, abs=1e-3)
    assert law.density(law.logsnr[0] + 1) == 0.0


def test_linear_beta_is_the_product_of_ddpm() -> None:
    betas, abar, product = np.linspace(1e-4, 0.02, 1000), [], 1.0
    for beta in betas:
        product *= 1 - beta
        abar.append(product)
    np.testing.assert_allclose(alpha(linear_beta().logsnr) ** 2, abar, rtol=1e-12)


@pytest.mark.parametrize("law", LAWS)
def test_an_evened_law_is_a_mixture_of_densities(law: NoiseSchedule) -> None:
    evened, width = law.evened(0.25), law.logsnr[0] - law.logsnr[-1]
    levels = np.linspace(law.logsnr[-1], law.logsnr[0], 1001)[1:-1]
    assert evened.density(levels) == pytest.approx(0.75 * law.density(levels) + 0.25 / width)
    assert (evened.logsnr_at(0.0), evened.logsnr_at(1.0)) == (law.logsnr[0], law.logsnr[-1])


def test_a_law_survives_json_to_the_bit() -> None:
    law = cosine(-11, 4)
    again = NoiseSchedule.from_json(law.to_json())
    assert np.array_equal(law.t, again.t) and np.array_equal(law.logsnr, again.logsnr)


def test_a_learned_law_goes_where_the_loss_changes() -> None:
    learned, rng = AdaptiveSchedule(-11, 4, 100, 0.999, 0.1), np.random.default_rng(0)
    logsnr = rng.uniform(-11, 4, 50_000)
    learned.observe(logsnr, 6 / (1 + np.exp(2 * (logsnr + 4))))  # the loss falls around logsnr -4
    learned.refit()
    assert learned.law.density(-4.0) > 5 * learned.law.density(2.0)
    assert -5 < learned.law.logsnr_at(0.5) < -3
    again = AdaptiveSchedule(-11, 4, 100, 0.999, 0.1)
    again.restore(learned.state())
    again.refit()
    learned.refit()
    assert np.array_equal(again.law.t, learned.law.t)


REFIT = """
import numpy as np
from sunfish.diffusion.schedule import AdaptiveSchedule
learned, rng = AdaptiveSchedule(-11, 4, 100, 0.999, 0.1), np.random.default_rng(0)
levels = rng.uniform(-11, 4, 20_000)
learned.observe(levels, 3 / (1 + np.exp(levels + 3)) + 0.1 * rng.random(20_000))
learned.refit()
print(learned.law.to_json())
"""


def test_a_law_is_learned_alike_by_every_blas() -> None:
    """Else a run would differ in its last bits, and all that follows be made anew, because of another
    machine's kernels.
    """
    laws = set()
    for kernel in ("", "Haswell", "Prescott"):
        told = (
            {**os.environ, "OPENBLAS_CORETYPE": kernel}
            if kernel
            else {k: v for k, v in os.environ.items() if k != "OPENBLAS_CORETYPE"}
        )
        laws.add(
            subprocess.run(
                [sys.executable, "-c", REFIT], env=told, capture_output=True, text=True, check=True
            ).stdout
        )
    assert len(laws) == 1 and "logsnr" in laws.pop()


@given(st.integers(1, 100), st.integers(0, 2**32))
def test_times_fall_one_into_each_slot(num: int, seed: int) -> None:
    times = np.sort(draw_times(num, np.random.default_rng(seed)))
    assert np.array_equal(np.floor(times * num + 1e-9), np.arange(num))


def test_bad_laws_are_refused() -> None:
    with pytest.raises(ValueError, match="must fall"):
        NoiseSchedule(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="at least 1 step"):
        sampling_times(0)
