from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sunfish.model.step import begin
from sunfish.sampler import Given, make_table
from sunfish.stagger import ORDERS, clocks, draw_places
from tests.oracles import Toy, gaussian_denoiser, gaussian_flow, walk_all
from tests.test_sampler import LAW


@given(st.sampled_from(ORDERS), st.integers(1, 20), st.integers(0, 1000))
def test_places_count_what_is_not_given(order: str, length: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    known = rng.random((3, length)) < 0.3
    for given_, place in zip(known, draw_places(order, known, rng), strict=True):
        assert (place[given_] == 0).all() and sorted(place[~given_]) == list(range(1, (~given_).sum() + 1))
        assert order == "random" or (np.diff(place[~given_]) > 0).all()


@given(st.floats(0.01, 1.0), st.integers(1, 20))
def test_clocks_run_from_noise_to_data_within_their_windows(window: float, length: int) -> None:
    times = np.linspace(0, 1, 101)
    says = clocks(times[:, None], np.linspace(0, 1, length), window)
    np.testing.assert_allclose(says[[0, -1]], [[0.0] * length, [1.0] * length], atol=1e-12)  # data at 0, noise at 1
    assert (np.diff(says, axis=0) >= 0).all()
    slopes = np.diff(says, axis=0) / np.diff(times)[:, None]
    assert slopes.max() <= 1 / window + 1e-6  # a clock runs through its window evenly


def test_with_a_window_of_one_every_clock_is_the_walk_s() -> None:
    t = np.array([0.1, 0.5, 1.0])
    np.testing.assert_allclose(clocks(t[:, None], np.linspace(0, 1, 5), 1.0), np.repeat(t[:, None], 5, axis=1))
    assert clocks(0.5, [0.0, 0.5, 1.0], 0.25).tolist() == [0.0, 0.5, 1.0]


def test_forward_means_from_left_to_right_past_what_is_given() -> None:
    known = np.array([[False, True, False, True, False]])
    assert draw_places("forward", known, np.random.default_rng(0)).tolist() == [[1, 0, 2, 0, 3]]
    assert make_table("ddim", LAW, 30).places(known, np.random.default_rng(0)).tolist() == [[0] * 5]  # all at once


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["ddim", "dpm-solver"])
def test_where_positions_do_not_depend_on_one_another_the_order_changes_nothing(name: str, order: str, rng: np.random.Generator) -> None:
    """Independent Gaussian positions end where the exact flow carries each of them, whenever they begin."""
    x_1 = np.linspace(-2, 2, 5).reshape(1, 5, 1)
    table = make_table(name, LAW, 400, window_steps=200, order=order)
    ends = np.zeros(5)

    def denoise(x: Tensor, logsnr: np.ndarray, previous: Tensor) -> tuple[Tensor, Tensor]:
        estimate, logits = gaussian_denoiser(x, logsnr, previous)
        landing = (logsnr[0, :, 0] == LAW.logsnr[0]) & ~toy.state.known[0].numpy()
        ends[landing] = estimate.numpy()[0, landing, 0]
        return estimate, logits

    toy = Toy(lambda: x_1, denoise)
    assert walk_all(table, toy, Given.nothing(1, 5), table.places(np.zeros((1, 5), bool), rng)) <= 400 and toy.look().known.all()
    np.testing.assert_allclose(ends, gaussian_flow(x_1, LAW)[0, :, 0], atol=0.02)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 30), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_every_position_takes_all_its_rows_in_time_and_order(steps: int, window: int, length: int, seed: int) -> None:
    """The ages of each: waiting, then row after row to the last, whatever settles early."""
    table = make_table("ddim", LAW, steps, window_steps=window, settle_above=0.99)
    rows, sure = len(table.logsnr), torch.from_numpy(np.random.default_rng(seed).random(length) < 0.2 * (seed % 4)) * 9.0
    age, known, left = torch.zeros(1, length, dtype=torch.long), torch.zeros(1, length, dtype=torch.bool), steps
    place = torch.arange(1, length + 1)[None]
    before = place[:, None, :] < place[:, :, None]
    while not known.all():
        assert left > 0
        earlier, age = age, begin(age, known, before, torch.tensor([left]), rows, torch.tensor(1 + seed % 2))
        begun = (age[0] > 0) | known[0]
        assert begun.tolist() == sorted(begun.tolist(), reverse=True)  # the first in the order first
        assert ((earlier == age) | (earlier == 0)).all() and (~known & (age > 0)).any()
        done = known[0] | (age[0] == rows) | (sure > 0)
        known[0] |= done.int().cumprod(0).bool()
        age, left = torch.where(age > 0, (age + 1).clamp(max=rows), age), left - 1


def test_as_few_are_in_the_making_as_end_in_time() -> None:
    def most(steps: int, window: int, length: int) -> int:
        table, age, worst = make_table("ddim", LAW, steps, window_steps=window), torch.zeros(1, length, dtype=torch.long), 0
        known, place = torch.zeros(1, length, dtype=torch.bool), torch.arange(1, length + 1)[None]
        for left in range(steps, 0, -1):
            age = begin(age, known, place[:, None, :] < place[:, :, None], torch.tensor([left]), len(table.logsnr), torch.tensor(1))
            worst = max(worst, int(((age > 0) & ~known).sum()))
            known = known | (age == len(table.logsnr))
            age = torch.where(age > 0, age + 1, age)
        assert known.all()
        return worst

    assert [most(100, 1, 36), most(100, 2, 36), most(100, 10, 36), most(20, 1, 36), most(100, 100, 36)] == [1, 1, 5, 2, 36]


def test_what_is_sure_settles_once_all_before_it_have() -> None:
    """Sure of all but the first and the fourth of six: two calls of twenty, and what is sure does not overtake what is not."""
    sure, seen = torch.tensor([0.0, 9.0, 9.0, 0.0, 9.0, 9.0]), []

    def denoise(x: Tensor, *_: object) -> tuple[Tensor, Tensor]:
        seen.append(toy.state.known[0].tolist())
        return torch.zeros_like(x), (sure[:, None] * torch.tensor([1.0, 0.0, 0.0])).double()[None]

    table = make_table("ancestral", LAW, 20, settle_above=0.99, window_steps=1)
    toy = Toy(lambda: np.zeros((1, 6, 2)), denoise, np.eye(3, 2))
    place = table.places(np.zeros((1, 6), bool), np.random.default_rng(0))
    assert walk_all(table, toy, Given.nothing(1, 6), place) == 2 and toy.calls.tolist() == [2]
    assert seen == [[False] * 6, [True, True, True, False, False, False]]


def test_a_window_is_the_whole_walk_at_most() -> None:
    tables = [make_table("ddpm", LAW, steps, window_steps=25) for steps in (100, 25, 10)]
    assert [(len(table), len(table.logsnr)) for table in tables] == [(100, 25), (25, 25), (10, 10)]
    assert [make_table(name, LAW, 40, window_steps=10).num_draws for name in ("ddpm", "ancestral", "ddim")] == [41, 41, 1]
    with pytest.raises(ValueError, match="at least 1 step, got a window of 0"):
        make_table("ddpm", LAW, 10, window_steps=0)
    with pytest.raises(ValueError, match="unknown order 'backward'"):
        make_table("ddpm", LAW, 10, order="backward")
    with pytest.raises(ValueError, match="unknown order 'backward'"):
        draw_places("backward", np.zeros((1, 2), bool), np.random.default_rng(0))
