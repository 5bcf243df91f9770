from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sunfish.evaluation.exported import in_turn
from sunfish.model.denoiser import Denoiser
from sunfish.model.sight import OPEN, follow_said, see_copies, see_turns, show_clean, show_noisy
from sunfish.stagger import ORDERS, draw_places
from sunfish.training.draws import first_open
from tests.test_model import make

LENGTH = 9


def scrambled(**changes: object) -> Denoiser:
    denoiser = make(**changes)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return denoiser.eval().requires_grad_(False)


def row(order: str, size: int, seed: int) -> tuple[torch.Tensor, ...]:
    """One row in blocks: x_0, x_t, logsnr, known, place, start; some positions are given, some of a block are done."""
    rng = np.random.default_rng(seed)
    known = rng.random((1, LENGTH)) < 0.3
    place = draw_places(order, known, rng)
    block = (np.maximum(place - 1, 0) + rng.integers(size)) // size
    done = ~known & (rng.random((1, LENGTH)) < 0.3)
    for number in np.unique(block[~known]):  # what is done of a block comes before what is open
        mine = ~known & (block == number)
        done[mine & (place > place[mine].min() + (done & mine).sum() - 1)] = False
    start = first_open(place, block, ~known & ~done)
    generator = torch.Generator().manual_seed(seed)
    x_0, x_t = torch.randn(2, 1, LENGTH, 16, generator=generator)
    x_0 = torch.nn.functional.normalize(x_0, dim=-1) * 4
    told = (torch.from_numpy(values) for values in (known | done, place, start))
    return x_0, x_t, torch.linspace(-3, 2, LENGTH)[None], *told


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(ORDERS), st.integers(1, LENGTH), st.integers(0, 1000))
def test_all_blocks_at_once_are_each_block_in_its_turn(order: str, size: int, seed: int) -> None:
    """What training asks of two copies is what sampling comes to with one."""
    denoiser, told = scrambled(), row(order, size, seed)
    previous = torch.full_like(told[1], 0.3)
    known = told[3]
    if known.all():
        return
    together, one_by_one = denoiser.predict_blocks(previous, *told), in_turn(denoiser, previous, *told)
    torch.testing.assert_close(together.logits[~known], one_by_one.logits[~known], atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(together.x_0_hat[~known], one_by_one.x_0_hat[~known], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", [1, 4])
def test_no_block_sees_its_own_text_nor_any_after_it(order: str, size: int) -> None:
    denoiser = scrambled()
    x_0, *told = row(order, size, 5)
    _, _, known, place, start = told
    before = denoiser.predict_blocks(torch.zeros_like(x_0), x_0, *told).logits
    for position in torch.nonzero(~known[0])[:, 0].tolist():
        changed = x_0.clone()
        changed[0, position] = -changed[0, position]
        differs = (denoiser.predict_blocks(torch.zeros_like(x_0), changed, *told).logits != before).any(dim=-1)[0]
        assert not differs[~known[0] & (start[0] <= place[0, position])].any()
        later = ~known[0] & (start[0] > place[0, position])
        assert differs[later].all()


def test_an_open_position_is_told_the_word_right_before_it_or_what_is_known_of_it() -> None:
    known = torch.tensor([[True, False, False, True, False]])
    said, in_the_making = follow_said(known, None)
    assert said.tolist() == [[False, True, False, False, True]]
    assert in_the_making.tolist() == [[False, False, True, False, False]]
    x, document = torch.zeros(1, 5, 16), torch.tensor([[0, 0, 0, 0, 1]])
    sight = show_noisy(x, torch.zeros(1, 5), known, document).sight
    said, in_the_making = follow_said(known, sight)
    assert said.tolist() == [[False, True, False, False, False]] and in_the_making.tolist() == [[False, False, True, False, False]]
    said, in_the_making = follow_said(known, sight._replace(said=torch.zeros_like(known)))
    assert not said.any() and in_the_making.tolist() == [[False, False, True, False, False]]


def test_in_two_copies_it_is_told_what_is_before_its_block_or_in_it() -> None:
    place, start = torch.tensor([[1, 2, 3, 0, 4, 5]]), torch.tensor([[1, 1, 3, 1, 4, 4]])
    given = place == 0
    both = torch.cat((torch.ones_like(given), given), dim=1)
    said, in_the_making = follow_said(both, see_copies(place, start, ~given))
    assert not said[:, :6].any() and not in_the_making[:, :6].any()
    assert said[:, 6:].tolist() == [[False, False, True, False, True, False]]
    assert in_the_making[:, 6:].tolist() == [[False, True, False, False, False, True]]


def test_two_clean_copies_side_by_side_are_each_by_itself() -> None:
    denoiser, x = scrambled(), torch.randn(4, LENGTH, 16, generator=torch.Generator().manual_seed(0))
    place = torch.from_numpy(draw_places("random", np.random.default_rng(0).random((4, LENGTH)) < 0.3, np.random.default_rng(1)))
    document = (torch.arange(LENGTH) > 5).long().expand(4, LENGTH)
    level, known = torch.zeros(4, LENGTH), torch.ones(4, LENGTH, dtype=torch.bool)
    for told in (None, document):
        pairs = show_clean(x, level, place, told)
        both = denoiser.predict(*pairs.told(torch.zeros_like(pairs.x))).logits
        alone = denoiser.predict(x, level, torch.zeros_like(x), known, see_turns(place, told)).logits
        torch.testing.assert_close(both.reshape(alone.shape), alone, atol=2e-4, rtol=1e-4)


def test_what_comes_next_is_said_without_having_seen_it() -> None:
    """The clean copy's logits at a position change with what was written up to it and with nothing after."""
    denoiser, x = scrambled(), torch.randn(1, LENGTH, 16, generator=torch.Generator().manual_seed(0))
    known, turn = torch.ones(1, LENGTH, dtype=torch.bool), torch.arange(1, LENGTH + 1)[None]
    turn[0, 7] = 0  # given: seen by all
    level, nothing = torch.zeros(1, LENGTH), torch.zeros_like(x)
    before = denoiser(x, level, nothing, known, turn).logits
    for position in range(LENGTH):
        changed = x.clone()
        changed[0, position] += 1
        differs = (denoiser(changed, level, nothing, known, turn).logits != before).any(dim=-1)[0]
        assert differs.tolist() == [bool(turn[0, position] <= turn[0, other]) for other in range(LENGTH)]


def test_what_waits_is_not_seen_and_sees_all() -> None:
    turn = torch.tensor([[0, 2, 1, OPEN, OPEN, OPEN + 1]])
    assert see_turns(turn).together[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 0, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1],
    ]  # fmt: skip
