"""Closed-form truths to hold samplers against."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sunfish.sampler import Given, Table, walk
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


class Toy:
    """A network of a noise source, a denoiser and clean embeddings, for walks over plain arrays."""

    def __init__(
        self, noise: Callable[[], np.ndarray], denoise: Callable[..., tuple] = gaussian_denoiser, table: np.ndarray | None = None
    ) -> None:
        self.noise, self.call, self.table = noise, denoise, np.zeros((1, 1)) if table is None else table

    def clean(self, given: Given) -> tuple[np.ndarray, np.ndarray]:
        known = given.known[..., None].astype(float)
        return self.table[given.ids] * known, known

    def denoise(self, x: np.ndarray, logsnr: float, x_0_prev: np.ndarray, given: Given) -> tuple[np.ndarray, np.ndarray]:
        return self.call(x, logsnr, x_0_prev)

    def likeliest(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return odds.max(axis=-1) / odds.sum(axis=-1), logits.argmax(axis=-1)


def end_of(table: Table, x_1: np.ndarray) -> np.ndarray:
    """Walk a deterministic table from x_1 with the Gaussian denoiser; its last estimate is where it lands."""
    *_, last = walk(table, Toy(lambda: x_1), Given.nothing(*x_1.shape[:2]))
    return last.x_0_hat
