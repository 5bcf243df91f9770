"""A sampler is a table: rows of coefficients, computed once in float64, and the one loop that walks them.

    x_next = c_x * x + c_0 * x_0_hat + c_p * x_0_prev + c_n * noise

The loop knows neither torch nor ONNX: anything with `*` and `+` will do. Known positions are set back at every row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sunfish.schedule import Array, NoiseLaw, alpha, sampling_times, sigma

Denoise = Callable[[Any, float, Any], tuple[Any, Any]]  # (x, logsnr, x_0_prev) -> (x_0_hat, logits)


@dataclass(frozen=True, eq=False)
class Table:
    """One row per denoiser call: the noise level it is called at, and how its answer becomes the next x."""

    logsnr: Array
    c_x: Array
    c_0: Array
    c_p: Array
    c_n: Array

    def __len__(self) -> int:
        return len(self.logsnr)


def ddim(law: NoiseLaw, num_steps: int, eta: float = 0.0) -> Table:
    """Return DDIM's table; eta 0 is deterministic, eta 1 is ancestral sampling. Source: [DDIM] eq. 12 and 16."""
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta must lie between 0 (deterministic) and 1 (ancestral), got {eta}")
    logsnr = law.logsnr_at(sampling_times(num_steps))
    a_t, s_t, a_s, s_s = _ends(logsnr)
    c_n = eta * s_s / s_t * np.sqrt(np.maximum(1.0 - (a_t / a_s) ** 2, 0.0))
    c_eps = np.sqrt(np.maximum(s_s**2 - c_n**2, 0.0))
    return Table(logsnr, c_eps / s_t, a_s - c_eps * a_t / s_t, np.zeros_like(c_n), c_n)


def ddpm(law: NoiseLaw, num_steps: int = 1000) -> Table:
    """Return the ancestral table, DDIM's with eta 1: a draw from q(x_s | x_t, x_0_hat). Source: [DDPM] eq. 7."""
    return ddim(law, num_steps, eta=1.0)


def dpm_solver(law: NoiseLaw, num_steps: int) -> Table:
    """Return the table of DPM-Solver++(2M); its first and last rows are first order. Source: [DPM++] algorithm 2."""
    logsnr = law.logsnr_at(sampling_times(num_steps))
    _, s_t, a_s, s_s = _ends(logsnr)
    half_lambda = 0.5 * logsnr
    step = np.append(np.diff(half_lambda), np.inf)  # h_i of the paper; the last row lands on clean data
    c_0 = a_s * -np.expm1(-step)
    ratio = np.zeros(num_steps)
    ratio[1:-1] = step[1:-1] / step[:-2]  # h_i / h_{i-1} = 1 / r_i
    return Table(logsnr, s_s / s_t, c_0 * (1.0 + 0.5 * ratio), -0.5 * c_0 * ratio, np.zeros(num_steps))


def _ends(logsnr: Array) -> tuple[Array, Array, Array, Array]:
    """Return alpha and sigma where each row starts (t) and where it lands (s); the last one lands on clean data."""
    a_t, s_t = alpha(logsnr), sigma(logsnr)
    return a_t, s_t, np.append(a_t[1:], 1.0), np.append(s_t[1:], 0.0)


SAMPLERS = ("ddim", "ddpm", "dpm-solver")


def make_table(name: str, law: NoiseLaw, num_steps: int, eta: float = 0.0) -> Table:
    """Return a sampler's table by name.

    Raises:
        ValueError: unknown name, fewer than 2 steps, or eta outside [0, 1].
    """
    if name == "ddim":
        return ddim(law, num_steps, eta)
    if name == "ddpm":
        return ddpm(law, num_steps)
    if name == "dpm-solver":
        return dpm_solver(law, num_steps)
    raise ValueError(f"unknown sampler {name!r}; there are {', '.join(SAMPLERS)}")


@dataclass(frozen=True)
class Step:
    """Where a walk stands after one row."""

    index: int
    x_0_hat: Any
    logits: Any


def walk(table: Table, denoise: Denoise, draw_noise: Callable[[], Any], x_known: Any, known: Any) -> Iterator[Step]:
    """Walk from noise to data, yielding each row's estimate; the last one's logits are the text.

    Args:
        denoise: (x, logsnr, x_0_prev) -> (x_0_hat, logits); x is (batch, pos, emb), logsnr a number for all.
        draw_noise: a fresh standard normal of x's shape; called once at first and once per row that adds noise.
        x_known, known: clean embeddings, and 1 where they are given, 0 elsewhere, (batch, pos, 1).
    """
    x = draw_noise() * (1 - known) + x_known * known
    x_0_prev = x * 0
    rows = zip(table.logsnr, table.c_x, table.c_0, table.c_p, table.c_n, strict=True)
    for index, (logsnr, *row) in enumerate(rows):
        c_x, c_0, c_p, c_n = map(float, row)
        x_0_hat, logits = denoise(x, float(logsnr), x_0_prev)
        yield Step(index, x_0_hat, logits)
        x = c_x * x + c_0 * x_0_hat
        if c_p:
            x = x + c_p * x_0_prev
        if c_n:
            x = x + c_n * draw_noise()
        x = x * (1 - known) + x_known * known
        x_0_prev = x_0_hat


def likeliest_ids(last: Step, ids: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the text of a walk's last step (its logits as an array): the likeliest ids, and the given ones as given."""
    return np.where(known, ids, np.asarray(last.logits).argmax(axis=-1))
