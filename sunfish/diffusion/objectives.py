"""What is minimised, at each position: nats where the objective is one, a mean square where it is not.

`ce` is the cross-entropy at the drawn noise level: no likelihood, but it bounds the same posterior. `elbo` is
the bound's own diffusion term. `eps_mse` and `x0_mse` are the founding objective and its sister."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sunfish.diffusion.process import Embeddings, Levels, eps_from_x_0

PerPosition = Float[Tensor, "batch pos"]


def cross_entropy(logits: Float[Tensor, "batch pos vocab"], ids: Int[Tensor, "batch pos"]) -> PerPosition:
    """Return `ce`: -log p(token), nats at the drawn noise level. Not a likelihood. Source: [CDCD] eq. 8."""
    return F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").view(ids.shape)


def eps_mse(x_t: Embeddings, eps: Embeddings, x_0_hat: Embeddings, logsnr: Levels) -> PerPosition:
    """Return `eps_mse`: ||eps - eps_hat||^2 per coordinate, the founding objective. Source: [DDPM] eq. 14."""
    return (eps - eps_from_x_0(x_t, x_0_hat, logsnr)).square().mean(dim=-1)


def x0_mse(x_0: Embeddings, x_0_hat: Embeddings) -> PerPosition:
    """Return `x0_mse`: ||x_0 - x_0_hat||^2 per coordinate. Source: [DiffusionLM] section 4.2."""
    return (x_0 - x_0_hat).square().mean(dim=-1)


def diffusion_nats(x_0: Embeddings, x_0_hat: Embeddings, logsnr: Levels) -> PerPosition:
    """Return the bound's diffusion term per unit of logsnr, 0.5 * snr * ||x_0 - x_0_hat||^2; divided by the
    density of the drawn noise levels it is `elbo`, nats whose mean is the bound.

    Source: [VDM] eq. 17, with d snr = snr d logsnr.
    """
    return 0.5 * logsnr.exp() * (x_0 - x_0_hat).square().sum(dim=-1)
