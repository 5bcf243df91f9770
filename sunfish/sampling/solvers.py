"""A sampler is a table of coefficients, one row per evaluation of the denoiser, computed once in float64.

    x_next = c_x x + c_0 x_0_hat + c_p x_0_prev + c_n noise

A sampler is one function and one entry of `SAMPLERS`. Samplers with two evaluations a step fit, too:
`x_0_prev` is the estimate of the row before. Nothing here knows torch or ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sunfish.diffusion.schedule import Array, NoiseSchedule, alpha, sigma

if TYPE_CHECKING:
    from sunfish.config.schema.sampler import SamplerConfig

MAX_STEPS = 10_000
COEFFICIENTS = ("logsnr", "c_x", "c_0", "c_p", "c_n")

Grid = Callable[[int], Array]  # number of levels -> their logsnr, from noise to data, evenly spaced in t


@dataclass(frozen=True, eq=False)
class SolverTable:
    """One row per evaluation: the noise level of x, and how the estimate becomes the next x.

    With `draws_tokens`, one token drawn from the denoiser's distribution stands for x_0_hat, the mean of all.
    """

    logsnr: Array
    c_x: Array
    c_0: Array
    c_p: Array
    c_n: Array
    draws_tokens: bool = False

    def __len__(self) -> int:
        """Return how many evaluations of the denoiser a walk over the table takes."""
        return len(self.logsnr)

    @property
    def rows(self) -> Array:
        """Return the table as an array, (rows, 5), its columns as in `COEFFICIENTS`."""
        return np.stack((self.logsnr, self.c_x, self.c_0, self.c_p, self.c_n), axis=1)

    @property
    def is_stochastic(self) -> bool:
        """Say whether steps need fresh noise or draw tokens."""
        return self.draws_tokens or bool(self.c_n.any())


Solver = Callable[[Grid, int, "SamplerConfig"], SolverTable]


def time_grid(schedule: NoiseSchedule, start_time: float = 1.0) -> Grid:
    """Return the grid of noise levels from `start_time` (1 is pure noise) to data, both included."""
    return lambda num: schedule.logsnr_at(np.linspace(start_time, 0.0, num))


def ddim(grid: Grid, steps: int, config: SamplerConfig) -> SolverTable:
    """Return DDIM's table; eta 0 is deterministic, eta 1 is DDPM. Source: [DDIM] eq. 12 and 16."""
    return _ddim(grid(steps), config.eta)


def ddpm(grid: Grid, steps: int, config: SamplerConfig) -> SolverTable:
    """Return the ancestral table: a draw from q(x_s | x_t, x_0_hat). Source: [DDPM] eq. 7."""
    return _ddim(grid(steps), eta=1.0)


def ddpm_categorical(grid: Grid, steps: int, config: SamplerConfig) -> SolverTable:
    """Return DDPM's table with a drawn token instead of the mean: x_s ~ sum_token p(token) q(x_s | x_t,
    e_token).

    That is the exact reverse step of each position by itself, however long the step.
    Source: [D3PM] section 3, with [DDPM] eq. 7 for q.
    """
    table = _ddim(grid(steps), eta=1.0)
    return SolverTable(table.logsnr, table.c_x, table.c_0, table.c_p, table.c_n, draws_tokens=True)


def _ddim(logsnr: Array, eta: float) -> SolverTable:
    a_t, s_t, a_s, s_s = _ends(logsnr)
    c_n = eta * s_s / s_t * np.sqrt(np.maximum(1.0 - (a_t / a_s) ** 2, 0.0))
    c_eps = np.sqrt(np.maximum(s_s**2 - c_n**2, 0.0))
    return SolverTable(logsnr, c_eps / s_t, a_s - c_eps * a_t / s_t, np.zeros_like(c_n), c_n)


def dpmpp_2m(grid: Grid, steps: int, config: SamplerConfig) -> SolverTable:
    """Return DPM-Solver++(2M); its first and last rows are first order. Source: [DPM++] algorithm 2."""
    logsnr = grid(steps)
    _, s_t, a_s, s_s = _ends(logsnr)
    step = np.append(np.diff(0.5 * logsnr), np.inf)  # h_i of the paper; the last row lands on clean data
    c_0 = a_s * -np.expm1(-step)
    ratio = np.zeros(steps)
    ratio[1:-1] = step[1:-1] / step[:-2]  # h_i / h_{i-1} = 1 / r_i
    return SolverTable(logsnr, s_s / s_t, c_0 * (1.0 + 0.5 * ratio), -0.5 * c_0 * ratio, np.zeros(steps))


def heun(grid: Grid, steps: int, config: SamplerConfig) -> SolverTable:
    """Return Heun's second-order method: an Euler step to the next level, then a step with the mean of both
    slopes.

    In EDM's variables (y = x / alpha, u = sigma / alpha) the slope is (y - x_0_hat) / u. Each step takes two
    rows, the last one, to data, takes one; so an even number of evaluations leaves one for a first Euler
    step.
    Source: [EDM] algorithm 1 with S_churn = 0.
    """
    logsnr = grid(steps // 2 + 1)
    a_t, s_t, a_s, s_s = _ends(logsnr)
    u_t, u_s = s_t / a_t, s_s / a_s
    rows: list[tuple[float, float, float, float, float]] = []
    for k in range(len(logsnr)):
        euler = a_s[k] * u_s[k] / (a_t[k] * u_t[k]), a_s[k] * (1.0 - u_s[k] / u_t[k])
        rows.append((logsnr[k], *euler, 0.0, 0.0))
        is_single = k == len(logsnr) - 1 or (k == 0 and steps % 2 == 0)
        if not is_single:
            rows.append((logsnr[k + 1], *_heun_correction(u_t[k], u_s[k], a_s[k]), 0.0))
    return SolverTable(*np.array(rows).T)


def _heun_correction(u_t: float, u_s: float, a_s: float) -> tuple[float, float, float]:
    """Return c_x, c_0, c_p that redo an Euler step from u_t to u_s with the mean of the slopes at both ends.

    y_t is taken back from the Euler step: y_s' = r y_t + (1 - r) x_0_prev with r = u_s / u_t.
    """
    r, h = u_s / u_t, u_s - u_t
    y_t = 1.0 / r, 0.0, -(1.0 - r) / r  # in terms of (y_s', x_0_hat, x_0_prev)
    slope_t = [(a - b) / u_t for a, b in zip(y_t, (0.0, 0.0, 1.0), strict=True)]
    slope_s = (1.0 / u_s, -1.0 / u_s, 0.0)
    c = [y + 0.5 * h * (d + e) for y, d, e in zip(y_t, slope_t, slope_s, strict=True)]
    return c[0], a_s * c[1], a_s * c[2]  # x = alpha y at the same level, and x_0 has alpha 1


def churn(grid: Grid, steps: int, config: SamplerConfig) -> SolverTable:
    """Return Euler steps before each of which noise is added, raising sigma / alpha by the factor 1 + churn.

    The noise belongs to the row before, which lands at the raised level. Source: [EDM] algorithm 2 (first
    order)."""
    landing = grid(steps)
    raised = landing - 2.0 * np.log1p(config.churn) * (np.arange(steps) > 0)  # u grows: logsnr = -2 log u
    raised = np.maximum(raised, landing[0])  # no noisier than the start
    a_t, s_t = alpha(raised), sigma(raised)
    u_t, u_s = s_t / a_t, np.append(sigma(landing[1:]) / alpha(landing[1:]), 0.0)
    a_s, s_s = np.append(a_t[1:], 1.0), np.append(s_t[1:], 0.0)
    added = np.sqrt(np.maximum((s_s / a_s) ** 2 - u_s**2, 0.0))
    return SolverTable(raised, a_s * u_s / (a_t * u_t), a_s * (1.0 - u_s / u_t), np.zeros(steps), a_s * added)


def _ends(logsnr: Array) -> tuple[Array, Array, Array, Array]:
    """Return alpha and sigma where each row starts (t) and where it lands (s); the last one lands on clean
    data.
    """
    a_t, s_t = alpha(logsnr), sigma(logsnr)
    return a_t, s_t, np.append(a_t[1:], 1.0), np.append(s_t[1:], 0.0)


SAMPLERS: dict[str, Solver] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "dpmpp-2m": dpmpp_2m,
    "ddpm-categorical": ddpm_categorical,
    "heun": heun,
    "churn": churn,
}
