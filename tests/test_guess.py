"""A guess: what it is learned from, and that it changes the calls of a walk and never its text."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sunfish.lengths import RowLengths
from sunfish.model.guess import Guess, read_guess, start_guess, write_guess
from sunfish.model.inference import sample_ids
from sunfish.model.picard import Picard
from sunfish.model.step import draw
from sunfish.model.store import StoredDenoiser
from sunfish.problems import Problem
from sunfish.sampler import MOST_GUESSES, Given, asks_guess, make_table
from sunfish.training.distilling import GuessLoss, all_right, begin, chance_of, make_examples, take_call
from tests.test_sampler import LAW
from tests.test_sight import scrambled

END = 7


@pytest.fixture
def stored(tmp_path: Path) -> StoredDenoiser:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    denoiser = scrambled()
    denoiser.end_id = END
    return StoredDenoiser(denoiser, LAW, RowLengths.count([9], 12), END, tmp_path)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.05]))
def test_a_chance_draws_the_token_it_was_made_for(seed: int, floor: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    probabilities = (3 * torch.randn(4, 6, 11, generator=generator)).softmax(dim=-1)
    ids = torch.randint(11, (4, 6), generator=generator)
    chance, possible = chance_of(probabilities, ids, 0.01 + 0.98 * torch.rand(4, 6, generator=generator), floor)
    wide = possible & (probabilities.gather(-1, ids[..., None]).squeeze(-1) > 1e-4)  # float32 tells no narrower shares apart
    assert torch.equal(draw(probabilities, chance, floor)[wide], ids[wide])
    kept = (probabilities >= floor) | (probabilities == probabilities.amax(dim=-1, keepdim=True))
    assert torch.equal(possible, kept.gather(-1, ids[..., None]).squeeze(-1))


def test_the_walk_writes_a_text_again_by_the_chances_made_for_it(stored: StoredDenoiser) -> None:
    table, rng = make_table("picard", LAW, 100), np.random.default_rng(0)
    ids, _ = sample_ids(stored.denoiser, table, Given.nothing(5, 9), rng)
    place, known = torch.arange(1, 10).expand(5, 9), torch.zeros(5, 9, dtype=torch.bool)
    examples = make_examples(stored, torch.from_numpy(ids), known, place, table, 1.0, torch.Generator().manual_seed(0))
    assert examples.counts.all()
    draws = iter([examples.noise, examples.chance])

    class Again(np.random.Generator):
        def standard_normal(self, *_: object, **__: object) -> np.ndarray:  # type: ignore[override]
            return next(draws).numpy()

        random = standard_normal  # type: ignore[assignment]

    again, _ = sample_ids(stored.denoiser, table, Given.nothing(5, 9), Again(np.random.PCG64(0)))
    assert (again == ids).mean() > 0.95  # the noise is another one, and tells this denoiser next to nothing


def test_a_guess_learns_what_a_walk_can_write_and_nothing_behind_its_end(stored: StoredDenoiser) -> None:
    table, rng = make_table("picard", LAW, 100, floor=0.05), np.random.default_rng(0)
    ids, _ = sample_ids(stored.denoiser, table, Given.nothing(40, 9), rng)
    ids[:20, 4] = (ids[:20, 4] + 1) % END  # and so one that the floor may forbid
    texts, given_ = torch.from_numpy(ids), torch.zeros(40, 9, dtype=torch.bool)
    given_[:, 6] = True
    place = torch.from_numpy(table.places(given_.numpy(), rng))
    examples = make_examples(stored, texts, given_, place, table, 1.0, torch.Generator().manual_seed(0))
    behind = (texts == END).cumsum(dim=1) > (texts == END)
    assert not examples.counts[behind | given_].any()
    assert (examples.counts == (~behind & ~given_))[20:].all(dim=1).float().mean() > 0.3
    stopped = ~examples.counts & ~behind & ~given_
    assert stopped.any()
    assert ((stopped.cumsum(dim=1) > 0) & ~given_ & ~behind == stopped).all()  # from a forbidden one on nothing counts
    settled = examples.known & ~given_
    assert 5 < settled.any(dim=1).sum() < 30 and (settled[:, 1:6] <= settled[:, :5]).all()  # beginnings, in some


def test_what_counts_is_what_is_not_given_up_to_the_first_end(stored: StoredDenoiser) -> None:
    ids, given_ = torch.tensor([[5, 6, END, END], [5, 6, 7, END]]), torch.tensor([[False] * 4, [True, False, True, True]])
    place, table = torch.where(given_, 0, torch.arange(1, 5)), make_table("picard", LAW, 100)
    examples = make_examples(stored, ids, given_, place, table, 1.0, torch.Generator().manual_seed(0))
    assert examples.counts.tolist() == [[True, True, True, False], [False, True, False, False]]


def test_nothing_is_learned_of_a_text_once_a_word_has_settled_that_is_not_its_own(stored: StoredDenoiser) -> None:
    table, rng = make_table("picard", LAW, 100), np.random.default_rng(0)
    ids = torch.from_numpy(rng.integers(END, size=(2, 9)))
    place, nothing = torch.arange(1, 10).expand(2, 9), torch.zeros(2, 9, dtype=torch.bool)
    examples = make_examples(stored, ids, nothing, place, table, 1.0, torch.Generator().manual_seed(0))
    examples = examples._replace(known=place <= 2)
    loss, level = GuessLoss(start_guess(stored, 0)), torch.tensor(table.logsnr[0], dtype=torch.float32)
    state = begin(examples)
    wrong = state._replace(ids=state.ids.clone())
    wrong.ids[0, 1] = (wrong.ids[0, 1] + 1) % END
    second = type(examples)(*(part[1:] for part in examples))
    torch.testing.assert_close(loss(wrong, examples, level)[0], loss(begin(second), second, level)[0])
    assert loss(state, examples, level)[0] != loss(wrong, examples, level)[0]


def test_a_guess_sees_what_comes_before_and_its_own_chance_and_no_other(stored: StoredDenoiser) -> None:
    guess, generator = start_guess(stored, 0), torch.Generator().manual_seed(0)
    ids, chance = torch.randint(END, (1, 9), generator=generator), torch.rand(1, 9, generator=generator)
    place, drafted = torch.arange(1, 10)[None], torch.ones(1, 9, dtype=torch.bool)
    x = torch.randn(1, 9, stored.denoiser.section.emb_dim, generator=generator)

    def logits(ids: torch.Tensor, chance: torch.Tensor) -> torch.Tensor:
        return guess.predict(x, ids, ~drafted, drafted, chance, place, torch.tensor(-9.0)).logits

    before = logits(ids, chance)
    for position in range(9):
        other = chance.clone()
        other[0, position] = (other[0, position] + 0.4) % 1
        assert ((logits(ids, other) != before).any(dim=-1)[0] == (torch.arange(9) >= position)).all()
        word = ids.clone()
        word[0, position] = (word[0, position] + 1) % END
        assert ((logits(word, chance) != before).any(dim=-1)[0] == (torch.arange(9) >= position)).all()


def test_a_word_weighs_as_much_as_it_is_likely_that_a_call_comes_so_far() -> None:
    place = torch.tensor([[2, 0, 1, 3]])
    right = torch.tensor([[0.5, 1.0, 0.8, 0.1]])
    torch.testing.assert_close(all_right(-right.log(), place), torch.tensor([[0.8, 1.0, 1.0, 0.4]]))


def test_a_guess_changes_the_calls_and_not_the_text(stored: StoredDenoiser) -> None:
    table, some = make_table("picard", LAW, 100, floor=0.01), Given.nothing(6, 9)
    some.known[:, ::4] = True
    plain, calls = sample_ids(stored.denoiser, table, some, np.random.default_rng(0), 0.8)
    guessed, more = sample_ids(stored.denoiser, table, some, np.random.default_rng(0), 0.8, start_guess(stored, 0))
    assert np.array_equal(plain, guessed)

    class Oracle(Guess):
        def predict(self, *told: torch.Tensor):  # type: ignore[no-untyped-def]
            prediction = super().predict(*told)
            return prediction._replace(logits=torch.nn.functional.one_hot(torch.from_numpy(plain), self.denoiser.vocab_size).float())

    perfect = Oracle(stored.denoiser)
    best, fewest = sample_ids(stored.denoiser, table, some, np.random.default_rng(0), 0.8, perfect)
    assert np.array_equal(plain, best) and (fewest == 2).all() and (calls > 2).all() and (more > 2).all()
    assert (more <= calls + MOST_GUESSES).all()  # a guess that knows nothing costs its own calls and no other


def test_a_guess_is_asked_at_every_other_call_and_never_has_the_last_word() -> None:
    for steps in (1, 2, 5, 8, 100):
        asked = [asks_guess(call, steps - call) for call in range(steps)]
        assert asked[0] and sum(asked) <= MOST_GUESSES and (steps == 1 or not asked[-1])
        assert not any(a and b for a, b in zip(asked, asked[1:], strict=False))


def test_examples_walk_the_way_that_sampling_does(stored: StoredDenoiser) -> None:
    """Of texts that the teacher wrote itself, what settles in training's turns is what sampling settles, each turn some more."""
    table, loss = make_table("picard", LAW, 100), GuessLoss(start_guess(stored, 0))
    ids, _ = sample_ids(stored.denoiser, table, Given.nothing(5, 9), np.random.default_rng(0))
    place, known = torch.arange(1, 10).expand(5, 9).clone(), torch.zeros(5, 9, dtype=torch.bool)
    known[:, 4], place[:, 4] = True, 0
    examples = make_examples(stored, torch.from_numpy(ids), known, place, table, 1.0, torch.Generator().manual_seed(0))
    state, rows = begin(examples), torch.from_numpy(table.rows()).float()
    assert torch.equal(state.ids[state.known], examples.ids[state.known]) and not state.age.any()
    for _ in range(3):
        settled = state.known
        sampled = loss.guess(*state, examples.noise, examples.chance, rows, place, torch.full((5,), 100), torch.ones(5))
        nats, state = loss(state, examples, torch.tensor(table.logsnr[0], dtype=torch.float32))
        assert torch.equal(sampled.ids, state.ids) and torch.equal(sampled.age, state.age)
        assert nats.isfinite() and torch.equal(settled, state.known) and torch.equal(state.ids[settled], examples.ids[settled])
        state = take_call(Picard(stored.denoiser), state, examples, table, 1.0)
        assert (settled <= state.known).all() and (state.known.sum() > settled.sum() or settled.all())
        assert (state.known[:, 1:] <= state.known[:, :-1])[:, :3].all()  # a beginning
        assert (~state.known | (state.ids == examples.ids)).all(dim=1).float().mean() > 0.5


def test_a_guess_is_learned(stored: StoredDenoiser) -> None:
    table, generator = make_table("picard", LAW, 100), torch.Generator().manual_seed(0)
    ids = torch.randint(stored.denoiser.vocab_size, (4, 9), generator=generator)
    known, place = torch.zeros(4, 9, dtype=torch.bool), torch.arange(1, 10).expand(4, 9)
    learned = GuessLoss(start_guess(stored, 0))
    optimizer = torch.optim.Adam(learned.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        examples = make_examples(stored, ids, known, place, table, 1.0, torch.Generator().manual_seed(0))
        losses.append(learned(begin(examples), examples, torch.tensor(table.logsnr[0], dtype=torch.float32))[0])
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.2 * losses[0]


def test_a_guess_is_read_as_it_was_written_and_by_its_own_denoiser_only(stored: StoredDenoiser, tmp_path: Path) -> None:
    guess = start_guess(stored, 0)
    write_guess(tmp_path / "guess", guess, guess.state_dict(), stored.digest())
    again = read_guess(tmp_path / "guess", stored)
    assert all(torch.equal(a, b) for a, b in zip(guess.state_dict().values(), again.state_dict().values(), strict=True))
    (tmp_path / "guess" / "guess.safetensors").write_bytes(b"no")
    with pytest.raises(Problem, match="cannot be loaded"):
        read_guess(tmp_path / "guess", stored)
    other = dataclasses.replace(stored, folder=tmp_path / "other")
    other.folder.mkdir()
    (other.folder / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(Problem, match="distilled from another denoiser"):
        read_guess(tmp_path / "guess", other)
