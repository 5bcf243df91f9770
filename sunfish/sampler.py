"""A sampler is a table: rows of coefficients, computed once in float64, and the one loop that walks them.

    x_next = c_x * x + c_0 * x_0_hat + c_p * x_0_prev + c_n * noise

The loop knows neither torch nor ONNX: anything with `*` and `+` will do. Known positions are set back at every row. A position
settles, becomes known, once the model is sure of its token: what others still decide then rests on a word and not on a guess.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sunfish.schedule import Array, NoiseLaw, alpha, sampling_times, sigma

NEVER = 1.0  # no token is surer than certain


@dataclass(frozen=True, eq=False)
class Table:
    """One row per denoiser call: the noise level it is called at, and how its answer becomes the next x.

    A position settles on its likeliest token once the probability of that one is above `settle_above`.
    """

    logsnr: Array
    c_x: Array
    c_0: Array
    c_p: Array
    c_n: Array
    settle_above: float = NEVER

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


def make_table(name: str, law: NoiseLaw, num_steps: int, eta: float = 0.0, settle_above: float = NEVER) -> Table:
    """Return a sampler's table by name.

    Raises:
        ValueError: unknown name, fewer than 2 steps, eta outside [0, 1], or settle_above outside (0, 1].
    """
    if not 0.0 < settle_above <= NEVER:
        raise ValueError(f"settle must lie above 0 and be at most 1 (1: no word settles before the end), got {settle_above}")
    if name == "ddim":
        table = ddim(law, num_steps, eta)
    elif name == "ddpm":
        table = ddpm(law, num_steps)
    elif name == "dpm-solver":
        table = dpm_solver(law, num_steps)
    else:
        raise ValueError(f"unknown sampler {name!r}; there are {', '.join(SAMPLERS)}")
    return dataclasses.replace(table, settle_above=settle_above)


@dataclass(eq=False)
class Given:
    """Which positions have their token, and which one: those given from the start, and those that settled on the way."""

    ids: np.ndarray  # (batch, pos)
    known: np.ndarray  # bool, (batch, pos)

    @classmethod
    def nothing(cls, num: int, length: int) -> Given:
        """Return rows of which nothing is given."""
        return cls(np.zeros((num, length), np.int64), np.zeros((num, length), bool))

    def settle(self, probability: np.ndarray, ids: np.ndarray, above: float) -> bool:
        """Take over the `ids` whose `probability` is above a bound, and say whether there were any; what is known stays."""
        sure = (probability > above) & ~self.known
        self.ids, self.known = np.where(sure, ids, self.ids), self.known | sure
        return bool(sure.any())

    def text(self, likeliest: np.ndarray) -> np.ndarray:
        """Return the known ids, and the `likeliest` ones elsewhere."""
        return np.where(self.known, self.ids, likeliest)


class Network(Protocol):
    """What a walk asks of torch or of ONNX Runtime; their arrays pass through it untouched."""

    def noise(self) -> Any:
        """Return a fresh standard normal, (batch, pos, emb)."""
        ...

    def clean(self, given: Given) -> tuple[Any, Any]:
        """Return the known embeddings, 0 elsewhere, (batch, pos, emb), and 1 where they are known, 0 elsewhere, (batch, pos, 1)."""
        ...

    def denoise(self, x: Any, logsnr: float, x_0_prev: Any, given: Given) -> tuple[Any, Any]:
        """Return x_0_hat, (batch, pos, emb), and logits, (batch, pos, vocab)."""
        ...

    def likeliest(self, logits: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the probability of each position's likeliest token, and its id, both (batch, pos)."""
        ...


@dataclass(frozen=True)
class Step:
    """Where a walk stands after one row."""

    index: int
    x_0_hat: Any
    logits: Any


def walk(table: Table, network: Network, given: Given) -> Iterator[Step]:
    """Walk from noise to data, yielding each row's estimate; `given.text` of the last one's likeliest ids is the text.

    Settled positions are added to `given`. A walk whose positions have all settled ends there.

    Source: [DDIM] eq. 12 for the rows; [MaskGIT] section 3.2 for fixing what is certain first.
    """
    x_known, known = network.clean(given)
    x = network.noise() * (1 - known) + x_known * known
    x_0_prev = x * 0
    rows = zip(table.logsnr, table.c_x, table.c_0, table.c_p, table.c_n, strict=True)
    for index, (logsnr, *row) in enumerate(rows):
        c_x, c_0, c_p, c_n = map(float, row)
        x_0_hat, logits = network.denoise(x, float(logsnr), x_0_prev, given)
        yield Step(index, x_0_hat, logits)
        if table.settle_above < NEVER and given.settle(*network.likeliest(logits), table.settle_above):
            if given.known.all():
                return
            x_known, known = network.clean(given)
            x_0_hat = x_0_hat * (1 - known) + x_known * known
        x = c_x * x + c_0 * x_0_hat
        if c_p:
            x = x + c_p * x_0_prev
        if c_n:
            x = x + c_n * network.noise()
        x = x * (1 - known) + x_known * known
        x_0_prev = x_0_hat


def last_step(steps: Iterator[Step]) -> Step:
    """Return a walk's last step and keep none of the others: their logits would fill the memory."""
    step = next(steps)
    for step in steps:
        pass
    return step
