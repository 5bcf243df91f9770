"""A sampler is a table: rows of coefficients, computed once in float64, and the one loop that walks them.

    x_next = c_x * x + c_0 * x_0_hat + c_p * x_0_prev + c_n * noise

The loop knows neither torch nor ONNX Runtime: a network takes a row for each position at a time. Every position walks the same table, some
later than others. Known positions are set back at every row. A position settles, becomes known, at its last row, or before, once the
model is sure of its token: what others still decide then rests on a word and not on a guess.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from sunfish.schedule import Array, NoiseLaw, alpha, sampling_times, sigma
from sunfish.stagger import ORDERS, draw_lags

NEVER = 1.0  # no token is surer than certain
MAX_STEPS = 10_000
COLUMNS = ("logsnr", "c_x", "c_0", "c_p", "c_n", "settle_above")


@dataclass(frozen=True, eq=False)
class Table:
    """One row per step of a position: the noise level it stands at, and how the denoiser's answer becomes its next x.

    A position settles on its likeliest token once the probability of that one is above `settle_above`, and at the last row in any case.
    The last position begins `spread` steps after the first one, the others in between, in the `order`.
    """

    logsnr: Array
    c_x: Array
    c_0: Array
    c_p: Array
    c_n: Array
    settle_above: float = NEVER
    spread: int = 0
    order: str = "forward"

    def __len__(self) -> int:
        """Return how many denoiser calls a walk takes."""
        return len(self.logsnr) + self.spread

    def rows(self) -> Array:
        """Return (1 + rows, 6), its columns `COLUMNS`: first what a position does while it waits, stand still, then a row a step."""
        settle = np.full_like(self.logsnr, self.settle_above)
        settle[-1] = 0.0
        rows = np.stack((self.logsnr, self.c_x, self.c_0, self.c_p, self.c_n, settle), axis=1)
        return np.concatenate(([[self.logsnr[0], 1.0, 0.0, 0.0, 0.0, NEVER]], rows))

    def delays(self, known: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return how many steps each position waits, (batch, pos)."""
        lags = draw_lags(self.order, known, rng) if self.spread else np.zeros(known.shape)
        return np.round(self.spread * lags).astype(np.int64)

    def turns(self, delay: np.ndarray) -> Iterator[Array]:
        """Yield what every position does at each step of a walk, (batch, pos, 6)."""
        rows = self.rows()
        for turn in range(len(self)):
            yield rows[np.clip(turn + 1 - delay, 0, len(self.logsnr))]

    def num_draws(self, delay: np.ndarray) -> int:
        """Return how often a walk draws noise: at its start, and whenever a position's row adds some."""
        return 1 + sum(bool(rows[..., COLUMNS.index("c_n")].any()) for rows in self.turns(delay))


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


def make_table(
    name: str,
    law: NoiseLaw,
    num_steps: int,
    eta: float = 0.0,
    settle_above: float = NEVER,
    window_steps: int = MAX_STEPS,
    order: str = "forward",
) -> Table:
    """Return a sampler's table by name: `num_steps` in all, of which each position takes `window_steps`, or all where that is more.

    Raises:
        ValueError: unknown name or order, fewer than 2 or more than 10,000 steps, fewer than 2 a position, eta outside [0, 1], or
            settle_above outside (0, 1].
    """
    if num_steps > MAX_STEPS:
        raise ValueError(f"{num_steps} steps are more than {MAX_STEPS:,}, far beyond where more steps help")
    if not 0.0 < settle_above <= NEVER:
        raise ValueError(f"settle must lie above 0 and be at most 1 (1: no word settles before its end), got {settle_above}")
    if order not in ORDERS:
        raise ValueError(f"unknown order {order!r}; there are {', '.join(ORDERS)}")
    if window_steps < 2:
        raise ValueError(f"a position needs at least 2 steps, got a window of {window_steps}")
    own = min(num_steps, window_steps)
    if name == "ddim":
        table = ddim(law, own, eta)
    elif name == "ddpm":
        table = ddpm(law, own)
    elif name == "dpm-solver":
        table = dpm_solver(law, own)
    else:
        raise ValueError(f"unknown sampler {name!r}; there are {', '.join(SAMPLERS)}")
    return dataclasses.replace(table, settle_above=settle_above, spread=num_steps - own, order=order)


@dataclass(frozen=True, eq=False)
class Given:
    """Which positions have their token from the start, and which one."""

    ids: np.ndarray  # (batch, pos)
    known: np.ndarray  # bool, (batch, pos)

    @classmethod
    def nothing(cls, num: int, length: int) -> Given:
        """Return rows of which nothing is given."""
        return cls(np.zeros((num, length), np.int64), np.zeros((num, length), bool))


class Look(NamedTuple):
    """Where a walk stands: the ids as they would be now, how probable the likeliest are, which are known; each (batch, pos)."""

    ids: np.ndarray
    probability: np.ndarray
    known: np.ndarray


class Network(Protocol):
    """Texts in the making; their state stays where it is computed, with torch or with ONNX Runtime."""

    def start(self, given: Given) -> None:
        """Draw noise for all that is not given."""
        ...

    def step(self, rows: Array) -> None:
        """Denoise each position at its row's noise level, settle what is sure, and move on; noise is drawn only if some c_n is not 0.

        `rows` is (batch, pos, 6), of `Table.turns`.
        """
        ...

    def look(self) -> Look:
        """Return where the texts stand."""
        ...


def walk(table: Table, network: Network, given: Given, delay: np.ndarray | None = None) -> Iterator[int]:
    """Walk from noise to data, yielding after each step, from 0; a walk whose positions have all settled ends there.

    `delay`, of `Table.delays`, says when each position begins; None stands for none.

    Source: [DDIM] eq. 12 for the rows; [MaskGIT] section 3.2 for fixing what is certain first.
    """
    network.start(given)
    for index, rows in enumerate(table.turns(np.zeros_like(given.ids) if delay is None else delay)):
        network.step(rows)
        yield index
        if table.settle_above < NEVER and network.look().known.all():
            return


def finish(table: Table, network: Network, given: Given, delay: np.ndarray | None = None) -> np.ndarray:
    """Walk to the end and return the ids, (batch, pos)."""
    for _ in walk(table, network, given, delay):
        pass
    return network.look().ids
