"""The forward process x_0 -> x_t, and the conversions between x_0, eps and v.

    x_t = alpha x_0 + sigma eps        v = alpha eps - sigma x_0        alpha^2 + sigma^2 = 1

Source: [DDPM] eq. 4; [ProgressiveDistillation] section 4 for v.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sunfish.types import Embeddings, LogSnr

Column = Float[Tensor, "batch 1 1"]


def alpha_sigma(logsnr: LogSnr) -> tuple[Column, Column]:
    """Return alpha and sigma of each row, (batch, 1, 1), to multiply embeddings with."""
    column = logsnr[:, None, None]
    return column.sigmoid().sqrt(), (-column).sigmoid().sqrt()


def add_noise(x_0: Embeddings, eps: Embeddings, logsnr: LogSnr) -> Embeddings:
    """Return x_t = alpha x_0 + sigma eps."""
    alpha, sigma = alpha_sigma(logsnr)
    return alpha * x_0 + sigma * eps


def eps_from_x_0(x_t: Embeddings, x_0: Embeddings, logsnr: LogSnr) -> Embeddings:
    """Return the noise that leads from x_0 to x_t."""
    alpha, sigma = alpha_sigma(logsnr)
    return (x_t - alpha * x_0) / sigma


def x_0_from_eps(x_t: Embeddings, eps: Embeddings, logsnr: LogSnr) -> Embeddings:
    """Return the data that the noise hides."""
    alpha, sigma = alpha_sigma(logsnr)
    return (x_t - sigma * eps) / alpha


def v_from_x_0(x_t: Embeddings, x_0: Embeddings, logsnr: LogSnr) -> Embeddings:
    """Return v = alpha eps - sigma x_0."""
    alpha, sigma = alpha_sigma(logsnr)
    return (alpha * x_t - x_0) / sigma


def x_0_from_v(x_t: Embeddings, v: Embeddings, logsnr: LogSnr) -> Embeddings:
    """Return x_0 = alpha x_t - sigma v."""
    alpha, sigma = alpha_sigma(logsnr)
    return alpha * x_t - sigma * v
