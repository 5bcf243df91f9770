"""The loss: what is known gets none, the check its weight, and the cut of a batch has no say."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from sunfish.diffusion.conditioning import StepRandomness, draw_randomness
from sunfish.model.denoiser import Denoiser
from sunfish.text.layouts import instruction_mask
from sunfish.training.loss import DiffusionLoss, Loss, draw_noise, self_conditioning_estimate
from tests.builders import CE, make_denoiser

IDS = np.arange(48).reshape(8, 6) % 11
LEVELS = np.linspace(-4.0, 1.0, 8)
END = 10
TASK = np.array([[1, 2, END, 3, 4, END], [5, END, 6, 7, 8, 9]] * 4)  # instruction, end, answer, end
PLAIN_CE = dataclasses.replace(CE, check_weight=0.0, self_conditioning=0.0)


def randomness_of(**changes: Any) -> StepRandomness:
    return draw_randomness(CE, 0, 0, 8, 6)._replace(**changes)


def loss_of(
    denoiser: Denoiser, randomness: StepRandomness, rows: slice = slice(0, 8), **changes: Any
) -> Loss:
    loss = DiffusionLoss(denoiser, dataclasses.replace(CE, **changes))
    return loss(IDS[rows], randomness.part(rows), LEVELS[rows], np.ones(8)[rows])


def test_known_positions_get_no_loss() -> None:
    denoiser, known = make_denoiser(output_prior=False), np.ones((8, 6), bool)  # a zero head knows nothing
    known[:, 5] = False
    found = loss_of(denoiser, randomness_of(known=known), check_weight=0.0)
    torch.testing.assert_close(found.observed[:, 5], torch.full((8,), math.log(11)))
    assert found.total.item() == pytest.approx(math.log(11) / 6, rel=1e-5)
    found.total.backward()
    assert float(denoiser.head_bias.grad.abs().sum()) > 0.0


def test_what_is_known_holds_clean_embeddings_and_is_read() -> None:
    denoiser, known = make_denoiser(jitter=0.3), np.zeros((8, 6), bool)
    known[:, :3] = True
    told, untold = (loss_of(denoiser, randomness_of(known=mask)).observed for mask in (known, known & False))
    assert not torch.allclose(told[:, 3:], untold[:, 3:], atol=1e-3)


def test_the_check_is_the_next_token_cross_entropy_times_its_weight() -> None:
    denoiser, randomness = make_denoiser(jitter=0.3), randomness_of(self_conditioned=np.zeros(8, bool))
    logits = denoiser.next_token_logits(torch.from_numpy(IDS))
    nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(IDS).flatten())
    with_check, without = (loss_of(denoiser, randomness, check_weight=weight) for weight in (4.0, 0.0))
    assert (with_check.total - without.total).item() == pytest.approx(4.0 * nats.item(), rel=1e-4)
    assert float(with_check.check_nats.mean()) == pytest.approx(nats.item(), rel=1e-5)
    assert not without.check_nats.any() and torch.equal(with_check.observed, without.observed)


def test_documents_of_a_row_are_kept_apart() -> None:
    separator, ids = 10, IDS.copy()
    ids[:, 2] = separator
    other = ids.copy()
    other[:, :2] = 9
    for separator_id, same in ((separator, True), (None, False)):
        loss = DiffusionLoss(make_denoiser(jitter=0.3, length_conditioning=False), CE, separator_id)
        first, second = (
            loss(each, randomness_of(), LEVELS, np.ones(8)).observed[:, 3:] for each in (ids, other)
        )
        assert torch.allclose(first, second, atol=1e-5) is same


def test_only_the_chosen_rows_see_their_own_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser, chosen = make_denoiser(jitter=0.3), np.arange(8) % 2 == 0
    x_t = torch.randn(8, 6, 16, generator=torch.Generator().manual_seed(0))
    level, known = torch.from_numpy(LEVELS).float(), torch.zeros(8, 6, dtype=torch.bool)
    estimate = self_conditioning_estimate(denoiser, x_t, level, known, None, chosen)
    wanted = denoiser(x_t, level, torch.zeros_like(x_t), known).x_0_hat
    assert not estimate[~chosen].any() and not estimate.requires_grad
    torch.testing.assert_close(estimate[chosen], wanted[chosen])
    none, some = (
        loss_of(denoiser, randomness_of(self_conditioned=rows)).observed for rows in (chosen & False, chosen)
    )
    assert torch.equal(none[~chosen], some[~chosen]) and not torch.allclose(
        none[chosen], some[chosen], atol=1e-4
    )


@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_is_the_batch(parts: int) -> None:
    """Processes and micro-batches: the same noise, levels and estimates, however the rows are shared out."""
    whole, cut = (make_denoiser(jitter=0.3) for _ in range(2))
    randomness, each = randomness_of(known=IDS % 4 == 0), 8 // parts
    together = loss_of(whole, randomness)
    together.total.backward()
    pieces = [loss_of(cut, randomness, slice(k * each, (k + 1) * each)) for k in range(parts)]
    for piece in pieces:
        (piece.total / parts).backward()
    torch.testing.assert_close(torch.cat([piece.observed for piece in pieces]), together.observed)
    torch.testing.assert_close(torch.cat([piece.check_nats for piece in pieces]), together.check_nats)
    for name, parameter in whole.named_parameters():
        torch.testing.assert_close(cut.get_parameter(name).grad, parameter.grad, atol=1e-6, rtol=1e-4)


def test_noise_is_that_of_the_whole_batch() -> None:
    x_0, randomness = torch.zeros(8, 6, 4), randomness_of()
    whole = draw_noise(randomness, x_0)
    assert torch.equal(draw_noise(randomness.part(slice(2, 5)), x_0[:3]), whole[2:5])
    assert not torch.equal(draw_noise(randomness._replace(noise_seed=1), x_0), whole)


@pytest.mark.parametrize("objective", ["eps_mse", "x0_mse"])
def test_frozen_embeddings_get_no_gradient_but_the_schedule_sees_nats_or_squares(objective: str) -> None:
    denoiser = make_denoiser(jitter=0.3)
    denoiser.embedding.weight.requires_grad_(False)
    found = loss_of(denoiser, randomness_of(), objective=objective, check_weight=0.0)
    found.total.backward()
    assert denoiser.embedding.weight.grad is None and found.observed.isfinite().all()


def test_under_elbo_the_schedule_observes_nats_of_tokens() -> None:
    denoiser, randomness = make_denoiser(jitter=0.3), randomness_of()
    ce, elbo = (loss_of(denoiser, randomness, objective=name) for name in ("ce", "elbo"))
    torch.testing.assert_close(elbo.observed, ce.observed, atol=1e-5, rtol=1e-5)
    assert elbo.total.item() != pytest.approx(ce.total.item())


def test_answers_alone_are_learned_and_each_counts_alike() -> None:
    denoiser, given = make_denoiser(jitter=0.3), instruction_mask(TASK, END)
    assert given[:2].astype(int).tolist() == [[1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]]
    loss = DiffusionLoss(denoiser, CE, task_end_id=END)
    found = loss(TASK, randomness_of(), LEVELS, np.ones(8))
    nats = denoiser.next_token_nats(torch.from_numpy(TASK), torch.ones(TASK.shape)).detach().numpy()
    answers = [row[~mask].mean() for row, mask in zip(nats, given, strict=True)]
    np.testing.assert_allclose(found.check_nats, answers, rtol=1e-5)
    assert np.array_equal(found.known, given)
    observed = [row[~mask].mean() for row, mask in zip(found.observed.numpy(), given, strict=True)]
    assert found.total.item() == pytest.approx(np.mean(observed) + np.mean(answers), rel=1e-5)


def test_an_instruction_is_read_and_never_noised() -> None:
    denoiser, randomness = make_denoiser(jitter=0.3), randomness_of()
    other = np.where(TASK == 1, 2, TASK)
    loss = DiffusionLoss(denoiser, dataclasses.replace(CE, self_conditioning=0.0), task_end_id=END)
    seen = [loss(ids, randomness, np.full(8, -20.0), np.ones(8)).observed for ids in (TASK, other)]
    assert not torch.equal(seen[0][0, 3:], seen[1][0, 3:])  # behind pure noise, only it can tell
    assert torch.equal(seen[0][1], seen[1][1])
