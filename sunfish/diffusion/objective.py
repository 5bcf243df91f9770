"""What is minimised, per example, over the positions that are not known.

`denoise` is any callable with the denoiser's arguments; nothing here knows a network.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sunfish.diffusion.process import Embeddings, PerExample, eps_from_x_0

Mask = Bool[Tensor, "batch pos"]


def mean_over(values: Float[Tensor, "batch pos"], mask: Mask) -> PerExample:
    """Return each row's mean over the masked positions; 0 where a row has none."""
    weights = mask.to(values.dtype)
    return (values * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def cross_entropy(logits: Float[Tensor, "batch pos vocab"], ids: Int[Tensor, "batch pos"], mask: Mask) -> PerExample:
    """Return `ce`: -log p(token), nats per token at the drawn noise level. Not a likelihood. Source: [CDCD] eq. 8."""
    nats = F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").view(ids.shape)
    return mean_over(nats, mask)


def eps_mse(x_t: Embeddings, eps: Embeddings, x_0_hat: Embeddings, logsnr: PerExample, mask: Mask) -> PerExample:
    """Return `eps_mse`: ||eps - eps_hat||^2 per coordinate, the founding objective. Source: [DDPM] eq. 14."""
    error = (eps - eps_from_x_0(x_t, x_0_hat, logsnr)).square().mean(dim=-1)
    return mean_over(error, mask)


def diffusion_nats(x_0: Embeddings, x_0_hat: Embeddings, logsnr: PerExample, mask: Mask) -> PerExample:
    """Return the bound's diffusion term per unit of logsnr, 0.5 * snr * ||x_0 - x_0_hat||^2, summed over a row's positions.

    Source: [VDM] eq. 17, with d snr = snr d logsnr.
    """
    error = (x_0 - x_0_hat).square().sum(dim=-1)
    return 0.5 * logsnr.exp() * (error * mask.to(error.dtype)).sum(dim=1)
