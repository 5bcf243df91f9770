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
from sunfish.model.step import draw
from sunfish.model.store import StoredDenoiser
from sunfish.problems import Problem
from sunfish.sampler import MOST_GUESSES, Given, asks_guess, make_table
from sunfish.training.distilling import GuessLoss, chance_of, make_examples, walk_on, with_room
from tests.test_sampler import LAW
from tests.test_sight import scrambled

END = 9


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


def test_a_guess_learns_in_rows_as_long_as_a_text_may_become_and_of_nothing_behind_its_end(stored: StoredDenoiser) -> None:
    ids, given_ = np.array([[5, 6, END, END], [5, 6, 7, END]]), np.array([[False] * 4, [True, False, True, True]])
    law = dataclasses.replace(stored.lengths, told=False)
    wide, there = with_room(ids, given_, law, END)
    assert wide.shape == (2, 9) and (wide[:, 4:] == END).all() and np.array_equal(wide[:, :4], ids)
    assert np.array_equal(there[:, :4], given_) and not there[0].any() and there[1, 4:].all()
    assert np.array_equal(with_room(ids, given_, stored.lengths, END)[0], ids)  # told its length, a row is as it is
    texts, known = torch.from_numpy(wide), torch.from_numpy(there)
    place, table = torch.where(known, 0, torch.arange(1, 10)), make_table("picard", LAW, 100)
    examples = make_examples(stored, texts, known, place, table, 1.0, torch.Generator().manual_seed(0))
    assert examples.counts.tolist() == [[True] * 3 + [False] * 6, [False, True] + [False] * 7]


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
    table, guess = make_table("picard", LAW, 100), start_guess(stored, 0)
    ids, _ = sample_ids(stored.denoiser, table, Given.nothing(5, 9), np.random.default_rng(0))
    place, known = torch.arange(1, 10).expand(5, 9).clone(), torch.zeros(5, 9, dtype=torch.bool)
    known[:, 4], place[:, 4] = True, 0
    examples = make_examples(stored, torch.from_numpy(ids), known, place, table, 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(examples.said[known], examples.ids[known]) and not examples.drafted.any() and not examples.counts[known].any()
    settled = known
    for turns in (1, 2, 3):
        walked = walk_on(guess, stored, examples, place, table, 1.0, turns)
        assert torch.equal(walked.drafted, ~walked.known) and not walked.counts[walked.known].any()
        assert (settled <= walked.known).all() and walked.known.sum() > settled.sum()
        assert (walked.known[:, 1:] <= walked.known[:, :-1])[:, :3].all()  # a beginning
        right = (~walked.known | (walked.said == walked.ids)).all(dim=1)
        assert right.float().mean() > 0.5 and not walked.counts[~right].any()
        settled = walked.known


def test_a_guess_is_learned(stored: StoredDenoiser) -> None:
    table, generator = make_table("picard", LAW, 100), torch.Generator().manual_seed(0)
    ids = torch.randint(stored.denoiser.vocab_size, (4, 9), generator=generator)
    known, place = torch.zeros(4, 9, dtype=torch.bool), torch.arange(1, 10).expand(4, 9)
    loss = GuessLoss(start_guess(stored, 0))
    optimizer = torch.optim.Adam(loss.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        examples = make_examples(stored, ids, known, place, table, 1.0, torch.Generator().manual_seed(0))
        losses.append(loss(examples, torch.tensor(table.logsnr[0], dtype=torch.float32)))
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
