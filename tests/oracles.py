"""Closed-form truths to hold samplers against."""

from __future__ import annotations

import numpy as np

from sunfish.sampler import Table, walk
from sunfish.schedule import NoiseLaw, alpha, sigma

MEAN, STD = 0.7, 0.4  # of Gaussian data


def gaussian_denoiser(x: np.ndarray, logsnr: float, _: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """E[x_0 | x_t] for x_0 ~ N(MEAN, STD^2), exactly."""
    a, s = float(alpha(logsnr)), float(sigma(logsnr))
    gain = a * STD**2 / (a**2 * STD**2 + s**2)
    return MEAN + gain * (x - a * MEAN), x


def gaussian_flow(x_1: np.ndarray, law: NoiseLaw) -> np.ndarray:
    """Where the deterministic flow carries x_1 at the law's last level down to clean data."""
    a, s = float(alpha(law.logsnr[-1])), float(sigma(law.logsnr[-1]))
    return MEAN + STD * (x_1 - a * MEAN) / np.sqrt(a**2 * STD**2 + s**2)


def end_of(table: Table, x_1: np.ndarray) -> np.ndarray:
    """Walk a deterministic table from x_1 with the Gaussian denoiser; its last estimate is where it lands."""
    zeros = np.zeros_like(x_1)
    *_, last = walk(table, gaussian_denoiser, lambda: x_1, zeros, np.zeros((*x_1.shape[:2], 1)))
    return last.x_0_hat
