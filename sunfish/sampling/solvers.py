"""A sampler is a table: rows of coefficients, computed once in float64, and the one loop that walks them.

    x_next = c_x * x + c_0 * x_0_hat + c_p * x_0_prev + c_n * noise

The loop knows neither torch nor ONNX Runtime: a network takes a row for each position at a time. Every
position walks the same table, some later than others. Known positions are set back at every row. A position
settles, becomes known, at its last row, or before, once the model is sure of its token: what others still
decide then rests on a word and not on a guess."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from sunfish.diffusion.schedule import Array, NoiseSchedule, alpha, sampling_times, sigma
from sunfish.stagger import ORDERS, draw_places

NEVER = 1.0  # no token is surer than certain
MAX_STEPS = 10_000
MOST_GUESSES = (
    10  # that a walk at once asks for: so it takes at most as many calls more than there are positions
)
COLUMNS = ("logsnr", "c_x", "c_0", "c_p", "c_n", "settle_above", "drawn", "waits", "floor")


@dataclass(frozen=True, eq=False)
class Table:
    """One row per step of a position: the noise level it stands at, and how the denoiser's answer becomes its
    next x.

    A walk takes `steps` steps at most. Where a position has fewer rows than that, positions begin one after
    another, in the `order`, as few of them at once as still end in time; else all begin at once. A position
    settles once the probability of its likeliest token is above
    `settle_above` and all before it have settled, and at its last row in any case; what is sure already while
    it waits settles, too. Where a row is `drawn`, what stands for x_0_hat is not the mean of all tokens but
    one of them, drawn by its probability; what is less probable than `floor` is never drawn, unless nothing
    is more. A walk `at_once` takes the steps of all positions, one after another in the order, in every call
    at once, each from what the call before made of the others, until nothing changes (`model.picard`)."""

    logsnr: Array
    c_x: Array
    c_0: Array
    c_p: Array
    c_n: Array
    settle_above: float = NEVER
    drawn: bool = False
    steps: int = 0  # 0: as many as there are rows
    order: str = "forward"
    floor: float = 0.0
    at_once: bool = False

    def __len__(self) -> int:
        """Return how many denoiser calls a walk takes at most."""
        return self.steps or len(self.logsnr)

    def rows(self) -> Array:
        """Return (1 + rows, 9), its columns `COLUMNS`: first what a position does while it waits, stand
        still, then a row a step.
        """
        settle = np.full_like(self.logsnr, self.settle_above)
        settle[-1] = 0.0
        drawn, waits, floor = (
            np.full_like(settle, self.drawn),
            np.zeros_like(settle),
            np.full_like(settle, self.floor),
        )
        rows = np.stack(
            (self.logsnr, self.c_x, self.c_0, self.c_p, self.c_n, settle, drawn, waits, floor), axis=1
        )
        return np.concatenate(
            ([[self.logsnr[0], 1.0, 0.0, 0.0, 0.0, self.settle_above, self.drawn, 1.0, self.floor]], rows)
        )

    def places(self, known: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return each position's place in the order, (batch, pos), 0 where it is given; 0 for all if all
        begin at once.
        """
        return draw_places(self.order, known, rng) if self.ordered else np.zeros(known.shape, np.int64)

    @property
    def ordered(self) -> bool:
        """Say whether positions come one after another."""
        return self.at_once or len(self) > len(self.logsnr)

    @property
    def settles_last(self) -> bool:
        """Say whether all positions walk together and none settles before the last row."""
        return not self.ordered and self.settle_above >= NEVER

    @property
    def draws(self) -> bool:
        """Say whether each step draws: noise for what adds some, and chances for what draws tokens; a walk at
        once keeps its first ones.
        """
        return not self.at_once and (self.drawn or bool(self.c_n.any()))

    @property
    def num_draws(self) -> int:
        """Return how often a walk draws at most, noise and chances: at its start, and at each step."""
        return 1 + len(self) * self.draws


def ddim(law: NoiseSchedule, num_steps: int, eta: float = 0.0) -> Table:
    """Return DDIM's table; eta 0 is deterministic, eta 1 is ancestral sampling. Source: [DDIM] eq. 12 and
    16.
    """
    require_eta(eta)
    logsnr = law.logsnr_at(sampling_times(num_steps))
    a_t, s_t, a_s, s_s = _ends(logsnr)
    c_n = eta * s_s / s_t * np.sqrt(np.maximum(1.0 - (a_t / a_s) ** 2, 0.0))
    c_eps = np.sqrt(np.maximum(s_s**2 - c_n**2, 0.0))
    return Table(logsnr, c_eps / s_t, a_s - c_eps * a_t / s_t, np.zeros_like(c_n), c_n)


def require_eta(eta: float) -> None:
    """Refuse an eta that no sampler takes, of those too that take none: whoever asks for it means something
    else.
    """
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta must lie between 0 (deterministic) and 1 (ancestral), got {eta}")


def ddpm(law: NoiseSchedule, num_steps: int = 1000) -> Table:
    """Return the ancestral table, DDIM's with eta 1: a draw from q(x_s | x_t, x_0_hat). Source: [DDPM] eq.
    7.
    """
    return ddim(law, num_steps, eta=1.0)


def dpm_solver(law: NoiseSchedule, num_steps: int) -> Table:
    """Return the table of DPM-Solver++(2M); its first and last rows are first order. Source: [DPM++]
    algorithm 2.
    """
    logsnr = law.logsnr_at(sampling_times(num_steps))
    _, s_t, a_s, s_s = _ends(logsnr)
    half_lambda = 0.5 * logsnr
    step = np.append(np.diff(half_lambda), np.inf)  # h_i of the paper; the last row lands on clean data
    c_0 = a_s * -np.expm1(-step)
    ratio = np.zeros(num_steps)
    ratio[1:-1] = step[1:-1] / step[:-2]  # h_i / h_{i-1} = 1 / r_i
    return Table(logsnr, s_s / s_t, c_0 * (1.0 + 0.5 * ratio), -0.5 * c_0 * ratio, np.zeros(num_steps))


def _ends(logsnr: Array) -> tuple[Array, Array, Array, Array]:
    """Return alpha and sigma where each row starts (t) and where it lands (s); the last one lands on clean
    data.
    """
    a_t, s_t = alpha(logsnr), sigma(logsnr)
    return a_t, s_t, np.append(a_t[1:], 1.0), np.append(s_t[1:], 0.0)


def ancestral(law: NoiseSchedule, num_steps: int) -> Table:
    """Return DDPM's table with drawn tokens: x_s is drawn from sum_token p(token) q(x_s | x_t, e_token).

    That is the exact step of a position by itself, however long it is; with the mean of all tokens it is so
    for short ones only.

    Source: [D3PM] section 3, with [DDPM] eq. 7 for q.
    """
    return dataclasses.replace(ddpm(law, num_steps), drawn=True)


def picard(law: NoiseSchedule) -> Table:
    """Return the table of a walk at once: each position takes one step, from noise to a token drawn, after
    those before it in the order.

    Taken one after another, the walk would be the ancestral one with a step a position and need a call for
    each; taken all at once, again and again on the same noise and chances, it comes to the very same text, in
    fewer calls.

    Source: [ParaDiGMS] section 3 (Picard iteration over a sampler's steps), [Forecasting] section 2 (drawn
    tokens as a fixed point)."""
    return dataclasses.replace(ancestral(law, 1), at_once=True)


SAMPLERS = ("ddim", "ddpm", "ancestral", "dpm-solver", "picard")


def make_table(
    name: str,
    law: NoiseSchedule,
    num_steps: int,
    eta: float = 0.0,
    settle_above: float = NEVER,
    window_steps: int = MAX_STEPS,
    order: str = "forward",
    floor: float = 0.0,
) -> Table:
    """Return a sampler's table by name: `num_steps` in all, of which each position takes `window_steps`, or
    all where that is more.

    Raises:
        ValueError: unknown name or order, no step or more than 10,000, no step a position, eta outside [0,
        1],
            settle_above outside (0, 1] or floor outside [0, 1).
    """
    if num_steps < 1:
        raise ValueError(f"a sampler needs at least 1 step, got {num_steps}")
    if num_steps > MAX_STEPS:
        raise ValueError(f"{num_steps} steps are more than {MAX_STEPS:,}, far beyond where more steps help")
    require_eta(eta)
    if not 0.0 < settle_above <= NEVER:
        raise ValueError(
            f"settle must lie above 0 and be at most 1 (1: no word settles before its end), got {settle_above}"
        )
    if order not in ORDERS:
        raise ValueError(f"unknown order {order!r}; there are {', '.join(ORDERS)}")
    if not 0.0 <= floor < 1.0:
        raise ValueError(f"floor must be at least 0 (every token may be drawn) and below 1, got {floor}")
    if window_steps < 1:
        raise ValueError(f"a position needs at least 1 step, got a window of {window_steps}")
    own = min(num_steps, window_steps)
    if name == "ddim":
        table = ddim(law, own, eta)
    elif name == "ddpm":
        table = ddpm(law, own)
    elif name == "ancestral":
        table = ancestral(law, own)
    elif name == "dpm-solver":
        table = dpm_solver(law, own)
    elif name == "picard":
        table = picard(law)
    else:
        raise ValueError(f"unknown sampler {name!r}; there are {', '.join(SAMPLERS)}")
    return dataclasses.replace(table, settle_above=settle_above, steps=num_steps, order=order, floor=floor)


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
    """Where a walk stands: the ids as they would be now, how probable the likeliest are, which are known;
    each (batch, pos).
    """

    ids: np.ndarray
    probability: np.ndarray
    known: np.ndarray


class Network(Protocol):
    """Texts in the making; their state stays where it is computed, with torch or with ONNX Runtime."""

    def start(self, table: Table, given: Given, place: np.ndarray) -> None:
        """Draw noise for all that is not given; `place`, of `Table.places`, is the order in which it is
        written.
        """
        ...

    def step(self, left: int) -> None:
        """Denoise each position at its row's noise level, settle what is sure, and move on; `left` counts the
        steps, this one too.
        """
        ...

    def look(self) -> Look:
        """Return where the texts stand."""
        ...


def asks_guess(call: int, left: int) -> bool:
    """Say whether a walk at once that has a distilled guess asks it at a call, counted from 0, with `left`
    calls left, this one too.

    It does at every other one, from the first on; the call after it settles what was guessed right, so the
    last is never a guess."""
    return call % 2 == 0 and call < 2 * MOST_GUESSES and (left > 1 or call == 0)


def walk(table: Table, network: Network, given: Given, place: np.ndarray) -> Iterator[int]:
    """Walk from noise to data, yielding after each step, from 0; a walk whose positions have all settled ends
    there.

    `place`, of `Table.places`, says in which order positions are written.

    Source: [DDIM] eq. 12 for the rows; [MaskGIT] section 3.2 for fixing what is certain first.
    """
    network.start(table, given, place)
    early = table.at_once or len(table) > len(table.logsnr) or table.settle_above < NEVER
    for index in range(len(table)):
        network.step(len(table) - index)
        yield index
        if (
            early and network.look().known.all()
        ):  # where none settles early nobody looks: on a GPU that would be waited for
            return


def finish(table: Table, network: Network, given: Given, place: np.ndarray) -> np.ndarray:
    """Walk to the end and return the ids, (batch, pos)."""
    for _ in walk(table, network, given, place):
        pass
    return network.look().ids
