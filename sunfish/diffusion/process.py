"""The forward process, x_0 -> x_t, and the conversions between x_0, eps and v.

    x_t = alpha * x_0 + sigma * eps        v = alpha * eps - sigma * x_0

Source: [DDPM] eq. 4; [ProgressiveDistillation] section 4 for v.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

Embeddings = Float[Tensor, "batch pos emb"]
Levels = Float[Tensor, "batch pos"]  # logsnr of each position
Column = Float[Tensor, "batch pos 1"]


def alpha_sigma(logsnr: Levels) -> tuple[Column, Column]:
    """Return alpha and sigma as columns that broadcast over (batch, pos, emb); alpha^2 + sigma^2 = 1."""
    column = logsnr[..., None]
    return column.sigmoid().sqrt(), (-column).sigmoid().sqrt()


def add_noise(x_0: Embeddings, eps: Embeddings, logsnr: Levels) -> Embeddings:
    """Return x_t."""
    alpha, sigma = alpha_sigma(logsnr)
    return alpha * x_0 + sigma * eps


def eps_from_x_0(x_t: Embeddings, x_0: Embeddings, logsnr: Levels) -> Embeddings:
    """Return the noise that leads from x_0 to x_t."""
    alpha, sigma = alpha_sigma(logsnr)
    return (x_t - alpha * x_0) / sigma


def x_0_from_eps(x_t: Embeddings, eps: Embeddings, logsnr: Levels) -> Embeddings:
    """Return the data that the noise hides."""
    alpha, sigma = alpha_sigma(logsnr)
    return (x_t - sigma * eps) / alpha


def v_from_x_0(x_t: Embeddings, x_0: Embeddings, logsnr: Levels) -> Embeddings:
    """Return v = alpha * eps - sigma * x_0."""
    alpha, sigma = alpha_sigma(logsnr)
    return (alpha * x_t - x_0) / sigma


def x_0_from_v(x_t: Embeddings, v: Embeddings, logsnr: Levels) -> Embeddings:
    """Return x_0 = alpha * x_t - sigma * v."""
    alpha, sigma = alpha_sigma(logsnr)
    return alpha * x_t - sigma * v
