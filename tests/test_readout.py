"""The readout in pieces, cached and under autocast says what the whole says."""

from __future__ import annotations

import pytest
import torch

from sunfish.model import readout
from tests.builders import make_denoiser, noisy


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
