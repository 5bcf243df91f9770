from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sunfish.config.convert import build
from sunfish.diffusion.schedule import NoiseSchedule, alpha, cosine, draw_times, linear_beta, sigma, uniform
from sunfish.diffusion.schedules import SCHEDULES, Adaptive, AdaptiveSchedule

FIXED = [linear_beta(), cosine(-11, 4), uniform(-11, 4, 10)]
ADAPTIVE = Adaptive(
    kind="adaptive", logsnr_min=-11.0, logsnr_max=4.0, num_bins=100, loss_ema_decay=0.999,
    uniform_fraction=0.1, refit_every=50,
)  # fmt: skip
SECTIONS = {
    "linear-beta": {},
    "cosine": {"logsnr_min": -11.0, "logsnr_max": 4.0},
    "adaptive": {key: value for key, value in vars(ADAPTIVE).items() if key != "kind"},
}


@given(st.floats(-40, 40))
def test_alpha_and_sigma_lie_on_the_circle(logsnr: float) -> None:
    assert alpha(logsnr) ** 2 + sigma(logsnr) ** 2 == pytest.approx(1.0, abs=1e-14)
    assert np.log(alpha(logsnr) ** 2 / sigma(logsnr) ** 2) == pytest.approx(logsnr, abs=1e-9)


@pytest.mark.parametrize("schedule", FIXED)
@given(t=st.floats(0, 1))
def test_time_to_logsnr_and_back(schedule: NoiseSchedule, t: float) -> None:
    assert schedule.t_at(schedule.logsnr_at(t)) == pytest.approx(t, abs=1e-9)


@pytest.mark.parametrize("schedule", FIXED)
def test_the_density_integrates_to_one(schedule: NoiseSchedule) -> None:
    edges = np.linspace(schedule.logsnr[-1], schedule.logsnr[0], 200_001)
    centres = 0.5 * (edges[1:] + edges[:-1])
    assert schedule.density(centres).sum() * (edges[1] - edges[0]) == pytest.approx(1.0, abs=1e-3)
    assert schedule.density(schedule.logsnr[0] + 1) == 0.0


def test_linear_beta_is_the_product_of_ddpm() -> None:
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    np.testing.assert_allclose(alpha(linear_beta().logsnr) ** 2, abar, rtol=1e-12)


def test_cosine_is_the_formula_of_the_paper() -> None:
    schedule = cosine(-11, 4)
    span = schedule.t_at([4.0, -11.0])
    assert span.tolist() == [0.0, 1.0]
    angles = np.arctan(np.exp(-0.5 * schedule.logsnr))  # sigma / alpha = tan(angle), the angle linear in t
    np.testing.assert_allclose(np.diff(angles), np.diff(angles).mean(), rtol=1e-9)


@pytest.mark.parametrize("schedule", FIXED)
def test_a_mixture_with_the_uniform_one_is_a_mixture_of_densities(schedule: NoiseSchedule) -> None:
    mixed, width = schedule.mix_with_uniform(0.25), schedule.logsnr[0] - schedule.logsnr[-1]
    levels = np.linspace(schedule.logsnr[-1], schedule.logsnr[0], 1001)[1:-1]
    assert mixed.density(levels) == pytest.approx(0.75 * schedule.density(levels) + 0.25 / width)
    assert (mixed.logsnr_at(0.0), mixed.logsnr_at(1.0)) == (schedule.logsnr[0], schedule.logsnr[-1])


def test_a_schedule_survives_json_to_the_bit() -> None:
    schedule = cosine(-11, 4)
    again = NoiseSchedule.from_json(schedule.to_json())
    assert np.array_equal(schedule.t, again.t) and np.array_equal(schedule.logsnr, again.logsnr)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_every_schedule_starts_and_carries_on_from_its_state(kind: str) -> None:
    config = build(SCHEDULES[kind], {"kind": kind, **SECTIONS[kind]}, "schedule")
    first, again, rng = config.start(), config.start(), np.random.default_rng(0)
    levels = rng.uniform(-11, 4, 20_000)
    first.observe(levels, 6 / (1 + np.exp(2 * (levels + 4))))
    for step in range(50):
        first.end_step(step)
    again.restore(first.state())
    for schedule in (first, again):
        schedule.observe(levels[:100], levels[:100] ** 2)
        schedule.end_step(99)
    assert np.array_equal(first.current.t, again.current.t)
    assert np.array_equal(first.current.logsnr, again.current.logsnr)


def test_an_adaptive_schedule_goes_where_the_loss_changes() -> None:
    adaptive, rng = AdaptiveSchedule(ADAPTIVE), np.random.default_rng(0)
    logsnr = rng.uniform(-11, 4, 50_000)
    adaptive.observe(logsnr, 6 / (1 + np.exp(2 * (logsnr + 4))))  # the loss falls around logsnr -4
    adaptive.refit()
    assert adaptive.current.density(-4.0) > 5 * adaptive.current.density(2.0)
    assert -5 < adaptive.current.logsnr_at(0.5) < -3


REFIT = """
import numpy as np
from sunfish.diffusion.schedules import Adaptive, AdaptiveSchedule
adaptive = AdaptiveSchedule(Adaptive(kind="adaptive", logsnr_min=-11.0, logsnr_max=4.0, num_bins=100,
                                     loss_ema_decay=0.999, uniform_fraction=0.1, refit_every=50))
rng = np.random.default_rng(0)
levels = rng.uniform(-11, 4, 20_000)
adaptive.observe(levels, 3 / (1 + np.exp(levels + 3)) + 0.1 * rng.random(20_000))
adaptive.refit()
print(adaptive.current.to_json())
"""


def test_a_schedule_adapts_alike_with_every_blas() -> None:
    """Else a run would differ in its last bits, and all that follows be made anew, because of another
    machine's kernels.
    """
    printed = set()
    for kernel in ("Haswell", "Prescott"):
        environment = {**os.environ, "OPENBLAS_CORETYPE": kernel}
        command = [sys.executable, "-c", REFIT]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        printed.add(done.stdout)
    assert len(printed) == 1 and "logsnr" in printed.pop()


@given(st.integers(1, 100), st.integers(0, 2**32))
def test_times_fall_one_into_each_slot(num: int, seed: int) -> None:
    times = np.sort(draw_times(num, np.random.default_rng(seed)))
    assert np.array_equal(np.floor(times * num + 1e-9), np.arange(num))


BAD = [
    ([0.0, 1.0], [0.0, 1.0], "must fall"),
    ([0.0], [1.0], "at least two knots"),
    ([0.0, 1.0], [4.0, float("nan")], "must be finite"),
    ([0.1, 1.0], [4.0, -4.0], "run from 0 to 1"),
]


@pytest.mark.parametrize(("t", "logsnr", "says"), BAD)
def test_bad_knots_are_refused(t: list[float], logsnr: list[float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        NoiseSchedule(np.array(t), np.array(logsnr))
