from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

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
    table = make_table("ddim", LAW, 30, window_steps=10)
    assert table.delays(np.array([[1, 0, 2, 0, 3], [1, 0, 0, 0, 0]])).tolist() == [[0, 0, 10, 0, 20], [0] * 5]
    assert make_table("ddim", LAW, 30).places(known, np.random.default_rng(0)).tolist() == [[0] * 5]  # all at once


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["ddim", "dpm-solver"])
def test_where_positions_do_not_depend_on_one_another_the_order_changes_nothing(name: str, order: str, rng: np.random.Generator) -> None:
    """Independent Gaussian positions end where the exact flow carries each of them, whenever they begin."""
    x_1 = np.linspace(-2, 2, 5).reshape(1, 5, 1)
    table = make_table(name, LAW, 400, window_steps=200, order=order)
    place, seen = table.places(np.zeros((1, 5), bool), rng), []
    delay = table.delays(place)
    assert len(table) == 400 and len(table.logsnr) == 200 and sorted(delay[0]) == [0, 50, 100, 150, 200]

    def denoise(x: Tensor, logsnr: np.ndarray, previous: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(gaussian_denoiser(x, logsnr, previous)[0].numpy())
        return gaussian_denoiser(x, logsnr, previous)

    toy = Toy(lambda: x_1, denoise)
    assert walk_all(table, toy, Given.nothing(1, 5), place) == 400 and toy.look().known.all()
    ends = np.array([seen[wait + 199][0, position] for position, wait in enumerate(delay[0])])
    np.testing.assert_allclose(ends, gaussian_flow(x_1, LAW)[0], atol=0.02)


def test_each_position_walks_the_whole_table_after_its_wait() -> None:
    table = make_table("ddpm", LAW, 40, window_steps=10)
    place = table.places(np.zeros((1, 4), bool), np.random.default_rng(0))
    turns, delay = list(table.turns(place)), table.delays(place)
    assert len(turns) == 40
    for position, wait in enumerate(delay[0]):
        mine = np.stack([rows[0, position] for rows in turns])
        assert (mine[:wait] == table.rows()[0]).all() and (mine[wait : wait + 10] == table.rows()[1:]).all()
        assert (mine[wait + 10 :] == table.rows()[-1]).all()
    assert table.num_draws(place) == 1 + 4 * 9 and make_table("ddim", LAW, 40, window_steps=10).num_draws(place) == 1
    assert make_table("ancestral", LAW, 40, window_steps=10).num_draws(place) == 1 + 40  # the last row draws a token


def test_a_window_is_the_whole_walk_at_most() -> None:
    assert [(len(t), t.spread) for t in (make_table("ddpm", LAW, steps, window_steps=25) for steps in (100, 25, 10))] == [
        (100, 75), (25, 0), (10, 0)
    ]  # fmt: skip
    with pytest.raises(ValueError, match="at least 2 steps, got a window of 1"):
        make_table("ddpm", LAW, 10, window_steps=1)
    with pytest.raises(ValueError, match="unknown order 'backward'"):
        make_table("ddpm", LAW, 10, order="backward")
    with pytest.raises(ValueError, match="unknown order 'backward'"):
        draw_places("backward", np.zeros((1, 2), bool), np.random.default_rng(0))
