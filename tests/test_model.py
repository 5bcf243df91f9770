from __future__ import annotations

import json
from pathlib import Path

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sunfish.config.compose import check, compose
from sunfish.diffusion import process
from sunfish.diffusion.lengths import RowLengths
from sunfish.diffusion.schedule import NoiseSchedule, uniform
from sunfish.digests import write_digests
from sunfish.errors import UserError
from sunfish.model import readout
from sunfish.model.attention_mask import document_ids
from sunfish.model.denoiser import Denoiser
from sunfish.model.embedding import expected_embedding
from sunfish.model.initial import count_parameters
from sunfish.model.pretrained import FORMAT, FolderConfig, read_denoiser, write_denoiser
from tests.builders import SMALL, make_denoiser

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]  # x_t, logsnr, x_0_prev, known


def noisy(denoiser: Denoiser, batch: int = 2, length: int = 6) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, denoiser.vocab_size, (batch, length), generator=generator)
    x_0, logsnr = denoiser.embed(ids).detach(), torch.linspace(-3, 1, batch)
    x_t = process.add_noise(x_0, torch.randn(x_0.shape, generator=generator), logsnr)
    x_0_prev = torch.randn(x_t.shape, generator=generator)
    return x_t, logsnr, x_0_prev, torch.zeros(batch, length, dtype=torch.bool)


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


def test_the_two_ways_to_a_token_s_nats_agree() -> None:
    denoiser = make_denoiser(jitter=0.1)
    inputs, ids = noisy(denoiser), torch.arange(12).view(2, 6) % 11
    share = torch.full((2, 6), 1 / 12)
    for nats, logits in (
        (denoiser.token_nats(*inputs, ids, share), denoiser(*inputs).logits),
        (denoiser.next_token_nats(ids, share), denoiser.next_token_logits(ids)),
    ):
        each = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none")
        torch.testing.assert_close(nats.flatten(), each, atol=1e-5, rtol=1e-5)


HEADS = [{"tied_head": True}, {"tied_head": False}, {"tied_head": False, "output_prior": False}]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("autocast", [False, True])
def test_a_loss_in_pieces_has_the_gradient_of_the_whole(
    head: dict, autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gradients(piece: int) -> dict[str, torch.Tensor]:
        monkeypatch.setitem(readout.PIECE, "cpu", piece)
        denoiser = make_denoiser(jitter=0.1, **head)
        x_t, logsnr, x_0_prev, known = noisy(denoiser, batch=3)
        known[0, :4] = True
        ids = torch.arange(18).view(3, 6) % 11
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            share = (~known) * torch.tensor([0.25, 0.5, 1.0])[:, None]
            denoised = denoiser.token_nats(x_t, logsnr, x_0_prev, known, ids, share)
            checked = denoiser.next_token_nats(ids, share)
        loss = 0.3 * (denoised * share).sum() + 0.7 * (checked * share).sum()
        loss.backward()
        grads = {name: p.grad for name, p in denoiser.named_parameters() if p.grad is not None}
        return {"loss": loss.detach(), **grads}

    whole = gradients(2**24)
    for piece in (11 * 4, 11 * 17, 5):
        pieces = gradients(piece)
        assert whole.keys() == pieces.keys()
        for name, gradient in whole.items():
            close = 5e-2 * float(gradient.abs().max()) if autocast else 5e-6
            torch.testing.assert_close(pieces[name], gradient, atol=close, rtol=1e-5)


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


@torch.no_grad()
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("aligned", [1, 64])
def test_a_cached_readout_says_the_same(head: dict, aligned: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(readout.ALIGNED, "cpu", aligned)
    denoiser = make_denoiser(jitter=0.1, **head)
    inputs = noisy(denoiser)
    before = denoiser(*inputs)
    with denoiser.cached_readout():
        assert denoiser.readout() is denoiser.readout()
        assert len(denoiser.readout().weight) % aligned == 0
        for now, then in zip(denoiser(*inputs), before, strict=True):
            torch.testing.assert_close(now, then, rtol=1e-5, atol=1e-5)
    denoiser.head_bias += torch.arange(11.0)
    assert not torch.equal(denoiser(*inputs).logits, before.logits)  # nothing is kept behind the block


def test_a_cached_readout_takes_autocast_s_precision() -> None:
    denoiser = make_denoiser()
    with torch.autocast("cpu", torch.bfloat16), denoiser.cached_readout():
        assert denoiser.readout().weight.dtype == torch.bfloat16


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


def stored(folder: Path, trained: Path) -> tuple[Denoiser, NoiseSchedule]:
    denoiser, schedule = make_denoiser(jitter=0.1), uniform(-11, 4)
    config = FolderConfig(FORMAT, SMALL, 11, RowLengths.count([8, 12], 3), 10, can_check=True)
    write_denoiser(folder, config, denoiser.state_dict(), schedule, trained / "denoiser")
    return denoiser, schedule


def test_a_stored_denoiser_comes_back_to_the_bit(tmp_path: Path, trained: Path) -> None:
    denoiser, schedule = stored(tmp_path / "denoiser", trained)
    again = read_denoiser(tmp_path / "denoiser")
    ours = denoiser.state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in again.denoiser.state_dict().items())
    assert (again.schedule.logsnr == schedule.logsnr).all() and again.lengths.longest == 12
    assert again.config.can_check and not again.denoiser.training


def edit(folder: Path, name: str, change: dict) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


def test_a_folder_that_does_not_fit_says_so(tmp_path: Path, trained: Path) -> None:
    folder = tmp_path / "denoiser"
    stored(folder, trained)
    edit(folder, "config.json", {"format": FORMAT - 1})
    with pytest.raises(UserError, match=rf"is of format {FORMAT - 1}.*pretrain stage"):
        read_denoiser(folder)
    stored(folder, trained)
    edit(folder, "noise_schedule.json", {"t": [0.0, 1.0], "logsnr": [-1.0, 4.0]})
    with pytest.raises(UserError, match=r"noise_schedule.json.*pretrain stage"):
        read_denoiser(folder)  # its digest is another one
    write_digests(folder)
    with pytest.raises(UserError, match=r"noise_schedule.json: is no noise schedule"):
        read_denoiser(folder)
    stored(folder, trained)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model.safetensors"):
        read_denoiser(folder)


def test_weights_of_another_model_are_refused(tmp_path: Path, trained: Path) -> None:
    folder = tmp_path / "denoiser"
    stored(folder, trained)
    edit(folder, "config.json", {"vocab_size": 12})
    write_digests(folder)
    with pytest.raises(UserError, match="does not hold the configured model"):
        read_denoiser(folder)
