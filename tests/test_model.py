"""The denoiser sees what it may see, and its numbers are exact where they must be."""

from __future__ import annotations

from pathlib import Path

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sunfish.config.compose import check, compose
from sunfish.diffusion import process
from sunfish.model.attention_mask import document_ids
from sunfish.model.denoiser import Denoiser
from sunfish.model.embedding import expected_embedding
from sunfish.model.initial import count_parameters
from tests.builders import make_denoiser, noisy

SIZES = [
    ("tiny", 512, 0.4e6, 0.7e6), ("mini", 1024, 0.45e6, 1.0e6), ("small", 50_257, 50e6, 60e6),
    ("base", 50_257, 125e6, 145e6), ("large", 50_257, 350e6, 400e6), ("full", 50_257, 1.3e9, 1.45e9),
]  # fmt: skip


@pytest.mark.parametrize(("model", "vocab_size", "low", "high"), SIZES)
def test_parameter_counts(model: str, vocab_size: int, low: float, high: float, tmp_path: Path) -> None:
    compose([f"model={model}"], tmp_path / "params.yaml")
    config = check(tmp_path / "params.yaml")["model"]
    with torch.device("meta"):
        counted = sum(p.numel() for p in Denoiser(config, vocab_size).parameters())
    assert low <= counted <= high
    assert counted == count_parameters(config, vocab_size)


def test_an_untrained_denoiser_with_the_output_prior_is_the_exact_posterior() -> None:
    denoiser = make_denoiser()
    x_t, logsnr, _, known = noisy(denoiser)
    table = denoiser.embedding.table()
    alpha, sigma = process.alpha_sigma(logsnr)
    distance = (x_t[:, :, None] - alpha[..., None] * table).square().sum(-1)
    exact = (-distance / (2 * sigma**2)).log_softmax(-1)
    logits = denoiser(x_t, logsnr, torch.zeros_like(x_t), known).logits
    torch.testing.assert_close(logits.log_softmax(-1), exact, atol=1e-4, rtol=1e-4)


def test_temperature_sharpens_the_context_and_leaves_the_evidence() -> None:
    x_t, logsnr, x_0_prev, known = noisy(make_denoiser())
    half = torch.full((2,), 0.5)
    plain, prior = make_denoiser(jitter=0.3, output_prior=False), make_denoiser(output_prior=True)
    hot, cold = (plain(x_t, logsnr, x_0_prev, known, temperature).logits for temperature in (None, half))
    torch.testing.assert_close(cold, 2 * hot, atol=1e-4, rtol=1e-4)
    told = (prior(x_t, logsnr, x_0_prev, known, temperature).logits for temperature in (None, half))
    assert torch.equal(*told)  # an untrained network adds no context


@torch.no_grad()
@pytest.mark.parametrize("changed", range(6))
def test_the_causal_pass_never_sees_a_token_or_what_is_behind_it(changed: int) -> None:
    denoiser = make_denoiser(jitter=0.3)
    ids = torch.arange(12).view(2, 6) % 11
    other = ids.clone()
    other[:, changed] = (other[:, changed] + 3) % 11
    before, after = denoiser.next_token_logits(ids), denoiser.next_token_logits(other)
    assert torch.equal(before[:, : changed + 1], after[:, : changed + 1])
    if changed < 5:
        assert not torch.allclose(before[:, changed + 1 :], after[:, changed + 1 :], atol=1e-3)


@torch.no_grad()
def test_the_denoising_pass_sees_every_position() -> None:
    denoiser = make_denoiser(jitter=0.3, conv_window=0, input_posterior=False)
    x_t, logsnr, x_0_prev, known = noisy(denoiser)
    other = x_t.clone()
    other[:, 5] += 1.0
    moved = (
        denoiser(x_t, logsnr, x_0_prev, known).logits - denoiser(other, logsnr, x_0_prev, known).logits
    ).abs()
    assert bool((moved.amax(-1) > 1e-5).all())


@torch.no_grad()
@pytest.mark.parametrize("window", [0, 2])
def test_documents_of_a_row_do_not_see_each_other(window: int) -> None:
    denoiser, end = make_denoiser(20, jitter=0.3, conv_window=window, length_conditioning=False), 19
    row = torch.tensor([[3, 4, 5, 6, end, 7, 8, 9, end, 10, 11]])
    document = document_ids(row, end)
    assert document is not None and document.tolist() == [[0] * 5 + [1] * 4 + [2] * 2]
    x_t, level = denoiser.embed(row) * 0.7, torch.zeros(1)
    other_ids, other_x = row.clone(), x_t.clone()
    other_ids[:, :4], other_ids[:, 9:] = 12, 13  # the separator is what a document begins after
    other_x[:, :5] += 1.0
    other_x[:, 9:] -= 1.0
    known, previous = torch.zeros_like(row, dtype=torch.bool), torch.zeros_like(x_t)

    def denoised(x: torch.Tensor, document: torch.Tensor | None) -> torch.Tensor:
        return denoiser(x, level, previous, known, None, document).logits[:, 5:9]

    def checked(ids: torch.Tensor, document: torch.Tensor | None) -> torch.Tensor:
        return denoiser.next_token_logits(ids, document)[:, 5:9]

    torch.testing.assert_close(denoised(x_t, document), denoised(other_x, document))
    torch.testing.assert_close(checked(row, document), checked(other_ids, document))
    assert not torch.allclose(denoised(x_t, None), denoised(other_x, None), atol=1e-2)
    assert not torch.allclose(checked(row, None), checked(other_ids, None), atol=1e-3)


def test_without_a_separator_rows_are_not_divided() -> None:
    assert document_ids(torch.zeros(1, 3, dtype=torch.long), None) is None


@torch.no_grad()
def test_a_position_knows_its_distance_to_the_end_only_with_length_conditioning() -> None:
    for conditioned in (False, True):
        denoiser = make_denoiser(jitter=0.3, length_conditioning=conditioned)
        ids = torch.arange(9)[None] % 11
        whole, begun = (denoiser.next_token_logits(ids[:, :length])[:, :5] for length in (9, 5))
        assert torch.allclose(whole, begun, atol=1e-5) is not conditioned


@torch.no_grad()
def test_rows_of_a_batch_do_not_see_each_other() -> None:
    denoiser = make_denoiser(jitter=0.1)
    inputs = noisy(denoiser)
    alone = denoiser(*(part[1:] for part in inputs)).logits
    torch.testing.assert_close(denoiser(*inputs).logits[1:], alone)


def test_embeddings_have_unit_variance_by_construction() -> None:
    table = make_denoiser().embedding.table()
    torch.testing.assert_close(table.square().mean(-1), torch.ones(11))


def test_known_positions_are_returned_as_given() -> None:
    denoiser = make_denoiser()
    x_t, logsnr, x_0_prev, known = noisy(denoiser)
    known[:, 2] = True
    x_0_hat = denoiser(x_t, logsnr, x_0_prev, known).x_0_hat
    assert torch.equal(x_0_hat[:, 2], x_t[:, 2]) and not torch.equal(x_0_hat[:, 1], x_t[:, 1])


def test_mixed_precision_leaves_the_expected_embedding_exact() -> None:
    """`eps_mse` divides its error by sigma: rounded to bf16, a perfect answer would miss the gate's bound."""
    denoiser = make_denoiser()
    sure = 50.0 * torch.nn.functional.one_hot(torch.tensor([[3, 1, 4, 1, 5, 9]]), 11).float()
    with torch.autocast("cpu", torch.bfloat16):
        expected = expected_embedding(sure, denoiser.embedding.table())
        assert torch.equal(expected, denoiser.embed(sure.argmax(-1)))
        assert denoiser(*noisy(denoiser)).x_0_hat.dtype == torch.float32


def test_shapes_are_checked_while_tests_run() -> None:
    denoiser = make_denoiser()
    x_t, logsnr, x_0_prev, known = noisy(denoiser)
    with pytest.raises(jaxtyping.TypeCheckError):
        denoiser(x_t, logsnr, x_0_prev, known[:, :5])
    with pytest.raises(jaxtyping.TypeCheckError):
        process.add_noise(x_t, x_0_prev, torch.zeros(3))


@given(st.floats(-12, 8), st.integers(0, 1000))
def test_conversions_come_back(level: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x_0, eps = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    logsnr = torch.tensor([level, level - 1, level + 1], dtype=torch.float64)
    alpha, sigma = process.alpha_sigma(logsnr)
    x_t = process.add_noise(x_0, eps, logsnr)
    v = alpha * eps - sigma * x_0
    for got, wanted in (
        (process.eps_from_x_0(x_t, x_0, logsnr), eps),
        (process.x_0_from_eps(x_t, eps, logsnr), x_0),
        (process.v_from_x_0(x_t, x_0, logsnr), v),
        (process.x_0_from_v(x_t, v, logsnr), x_0),
    ):
        torch.testing.assert_close(got, wanted, atol=1e-8, rtol=1e-8)
