"""A walk at once comes to the text of the walk in turn, in fewer calls."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sunfish.model.denoiser import Denoiser
from sunfish.model.inference import TorchNetwork
from sunfish.model.step import draw
from sunfish.sampler import Given, Table, make_table, walk
from sunfish.stagger import ORDERS
from tests.test_sampler import LAW
from tests.test_sight import scrambled

ROWS, LENGTH = 3, 9


class Fixed(TorchNetwork):
    """A network whose noise and chances are the same at every step."""

    def __init__(self, denoiser: Denoiser, seed: int, temperature: float) -> None:
        super().__init__(denoiser, np.random.default_rng(0), temperature)
        rng = np.random.default_rng(seed)
        self.same_noise = torch.from_numpy(rng.standard_normal((ROWS, LENGTH, 16), dtype=np.float32))
        self.same_chance = torch.from_numpy(rng.random((ROWS, LENGTH), dtype=np.float32))

    def _noise(self) -> Tensor:
        return self.same_noise

    def _chance(self) -> Tensor:
        return self.same_chance


@torch.no_grad()
def write(table: Table, network: Fixed, given: Given, place: np.ndarray, watch: Callable[[], None] = lambda: None) -> np.ndarray:
    for _ in walk(table, network, given, place):
        watch()
    return network.look().ids


def without_estimates(end_id: int | None = None) -> Denoiser:
    """A denoiser that does not look at the estimate before: in turn, a position that waits has one, and at once none does."""
    denoiser = scrambled()
    denoiser.end_id = end_id
    emb = denoiser.section.emb_dim
    denoiser.inward.weight[:, emb : 2 * emb] = 0
    return denoiser


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(ORDERS), st.integers(0, 1000), st.sampled_from([0.0, 0.05]), st.sampled_from([None, 0, 3]))
@example("random", 168, 0.0, 3)  # a word settled on one that a given end then took back
def test_all_steps_at_once_write_what_they_write_in_turn(order: str, seed: int, floor: float, end_id: int | None) -> None:
    denoiser, rng = without_estimates(end_id), np.random.default_rng(seed)
    some = Given(rng.integers(denoiser.vocab_size, size=(ROWS, LENGTH)), rng.random((ROWS, LENGTH)) < 0.2)
    at_once = make_table("picard", LAW, 100, order=order, floor=floor)
    in_turn = make_table("ancestral", LAW, 100, window_steps=1, order=order, floor=floor)
    place, network = at_once.places(some.known, rng), Fixed(denoiser, seed, 0.7)
    settled: list[Tensor] = []
    ours = write(at_once, network, some, place, lambda: settled.append(network.state.known))
    assert np.array_equal(ours, write(in_turn, Fixed(denoiser, seed, 0.7), some, place))
    assert np.array_equal(ours[some.known], some.ids[some.known])
    counts = torch.stack([known.sum(dim=1) for known in settled])
    assert ((counts[1:] > counts[:-1]) | (counts[:-1] == LENGTH)).all()  # each call settles one at least
    assert (network.calls <= 1 + torch.from_numpy(~some.known).sum(dim=1)).all()


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["picard", "ancestral", "ddim"]), st.integers(0, 1000))
def test_behind_an_end_all_is_end_and_what_comes_before_is_as_if_it_were_not(name: str, seed: int) -> None:
    table, some, end_id = make_table(name, LAW, 30, window_steps=2), Given.nothing(ROWS, LENGTH), 3
    some.known[0, 5] = True
    place = table.places(some.known, np.random.default_rng(0))
    free, ending = Fixed(without_estimates(), seed, 1.0), Fixed(without_estimates(end_id), seed, 1.0)
    without, ours = write(table, free, some, place), write(table, ending, some, place)
    behind = np.cumsum(ours == end_id, axis=1) > (ours == end_id)
    assert (ours[behind & ~some.known] == end_id).all() and np.array_equal(ours[some.known], some.ids[some.known])
    if name == "picard":
        assert np.array_equal(ours[~behind], without[~behind]) and (ending.calls <= free.calls).all()


def test_what_is_settled_is_a_beginning_and_stays() -> None:
    denoiser, seen = scrambled(), list[tuple[Tensor, Tensor]]()
    network, nothing = Fixed(denoiser, 1, 1.0), Given.nothing(ROWS, LENGTH)
    table = make_table("picard", LAW, 100)
    write(table, network, nothing, table.places(nothing.known, np.random.default_rng(0)), lambda: seen.append(network.state[2:4]))
    for (ids, known), (later, _) in zip(seen[:-1], seen[1:], strict=True):
        assert torch.equal(ids[known], later[known])
        assert torch.equal(known, known.int().cumprod(dim=1).bool())


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_last_step_leaves_nothing_open(steps: int) -> None:
    table, nothing = make_table("picard", LAW, steps), Given.nothing(ROWS, LENGTH)
    network = Fixed(scrambled(), 1, 1.0)
    write(table, network, nothing, table.places(nothing.known, np.random.default_rng(0)))
    assert network.look().known.all() and network.calls.max() == steps


@pytest.mark.parametrize("vocab_size", [1, 2, 7, 16, 567, 50_257])
def test_a_token_is_drawn_where_one_running_sum_over_all_reaches_the_chance(vocab_size: int) -> None:
    generator = torch.Generator().manual_seed(vocab_size)
    probabilities = (4 * torch.randn((3, 40, vocab_size), generator=generator)).softmax(dim=-1)
    chance = torch.rand((3, 40), generator=generator)
    kept = np.where(probabilities >= torch.clamp(probabilities.amax(dim=-1, keepdim=True), max=0.001), probabilities.double(), 0.0)
    reached = kept.cumsum(axis=-1) / kept.sum(axis=-1, keepdims=True)
    drawn = draw(probabilities, chance, 0.001).numpy()[..., None]
    above, below = np.take_along_axis(reached, drawn, -1), np.take_along_axis(reached - kept / kept.sum(axis=-1, keepdims=True), drawn, -1)
    near = 1e-6  # sums in another order
    assert (below[..., 0] <= chance.numpy() + near).all() and (above[..., 0] >= chance.numpy() - near).all()
    assert (np.take_along_axis(kept, drawn, -1) > 0.0).all(), "what has no share is never drawn"


def test_chances_at_both_ends_draw_tokens_that_have_a_share() -> None:
    probabilities = torch.full((1, 2, 567), 1e-4)
    probabilities[..., 100:110] = 0.09
    ends = torch.tensor([[1e-7, 1 - 2**-24]])
    assert draw(probabilities, ends, 0.01).tolist() == [[100, 109]]


def test_what_is_less_probable_than_the_floor_is_never_drawn_but_the_likeliest_always_may() -> None:
    probabilities = torch.tensor([[0.5, 0.08, 0.3, 0.12]]).expand(1000, 4)[None]
    chance = torch.linspace(0, 1, 1001)[None, :-1]
    counts = torch.bincount(draw(probabilities, chance, 0.1)[0], minlength=4) / 1000
    torch.testing.assert_close(counts, torch.tensor([0.5, 0.0, 0.3, 0.12]) / 0.92, atol=2e-3, rtol=0)
    assert (draw(probabilities, chance, 0.9) == 0).all()
    with pytest.raises(ValueError, match="floor must be at least 0"):
        make_table("picard", LAW, 10, floor=1.0)


def test_a_text_that_has_settled_is_not_computed_again() -> None:
    network, asked = Fixed(scrambled(), 1, 1.0), list[int]()
    network.moves["at once"].register_forward_pre_hook(lambda _, told: asked.append(len(told[0])))
    known = np.zeros((ROWS, LENGTH), bool)
    known[0, 1:] = True
    some, table = Given(np.ones((ROWS, LENGTH), np.int64), known), make_table("picard", LAW, 100)
    write(table, network, some, table.places(known, np.random.default_rng(0)))
    assert asked[0] == ROWS > asked[-1]
    assert sum(asked) == network.calls.sum()
