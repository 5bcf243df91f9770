"""The noise law: t <-> logsnr <-> (alpha, sigma), training draws and sampling grids, in float64 without
torch.

`t = 0` is data, `t = 1` is noise; `logsnr = log(alpha^2 / sigma^2)` in nats falls with t; alpha^2 + sigma^2 =
1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def alpha(logsnr: ArrayLike) -> Array:
    """Return sqrt(sigmoid(logsnr)), the share of the data."""
    return np.exp(-0.5 * np.logaddexp(0.0, -np.asarray(logsnr, np.float64)))


def sigma(logsnr: ArrayLike) -> Array:
    """Return sqrt(sigmoid(-logsnr)), the share of the noise."""
    return alpha(-np.asarray(logsnr, np.float64))


def logsnr_of_alpha_squared(alpha_squared: ArrayLike) -> Array:
    """Return log(abar / (1 - abar)), the inverse of `alpha` squared (abar in [DDPM])."""
    abar = np.asarray(alpha_squared, np.float64)
    return np.log(abar) - np.log1p(-abar)


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """A falling curve t -> logsnr, linear between knots; every law, fixed or learned, is such a table.

    `t` rises from 0 to 1 and `logsnr` falls; read as a distribution, the law draws a noise level with density
    -dt/dlogsnr, and walking t from 1 to 0 in even steps spends the sampler's steps by the same density.
    """

    t: Array
    logsnr: Array

    def __post_init__(self) -> None:
        if self.t.shape != self.logsnr.shape or self.t.ndim != 1 or len(self.t) < 2:
            raise ValueError("a noise law needs two equally long lists of at least two knots, t and logsnr")
        if not (np.diff(self.t) > 0).all() or not (np.diff(self.logsnr) < 0).all():
            raise ValueError("a noise law's t must rise and its logsnr must fall from knot to knot")
        if self.t[0] != 0.0 or self.t[-1] != 1.0:
            raise ValueError("a noise law's t must run from 0 to 1")

    def logsnr_at(self, t: ArrayLike) -> Array:
        """Return logsnr (nats) at times in [0, 1]."""
        return np.interp(np.asarray(t, np.float64), self.t, self.logsnr)

    def t_at(self, logsnr: ArrayLike) -> Array:
        """Return the time of each logsnr, the inverse of `logsnr_at`."""
        return np.interp(np.asarray(logsnr), self.logsnr[::-1], self.t[::-1])

    def density(self, logsnr: ArrayLike) -> Array:
        """Return -dt/dlogsnr, the share of draws (or steps) per nat; 0 outside the law's range."""
        bins = np.searchsorted(-self.logsnr, -np.asarray(logsnr, np.float64), side="right") - 1
        inside = (bins >= 0) & (bins < len(self.t) - 1)
        slopes = np.diff(self.t) / -np.diff(self.logsnr)
        return np.where(inside, slopes[np.clip(bins, 0, len(slopes) - 1)], 0.0)

    def evened(self, share: float) -> NoiseSchedule:
        """Return a law whose density is `share` even over the whole range, the rest this one's. Source:
        [Defensive] section 2.
        """
        even = (self.logsnr[0] - self.logsnr) / (self.logsnr[0] - self.logsnr[-1])
        return NoiseSchedule((1.0 - share) * self.t + share * even, self.logsnr)

    def to_json(self) -> dict[str, list[float]]:
        """Return plain lists; `from_json` reads them back to the same bits."""
        return {"t": self.t.tolist(), "logsnr": self.logsnr.tolist()}

    @classmethod
    def from_json(cls, lists: dict[str, list[float]]) -> NoiseSchedule:
        """Rebuild a law from `to_json`."""
        return cls(np.array(lists["t"], np.float64), np.array(lists["logsnr"], np.float64))


def linear_beta(num_steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> NoiseSchedule:
    """Return the founding law: betas linear in the step, abar their running product. Source: [DDPM] section
    4.
    """
    abar = np.cumprod(1.0 - np.linspace(beta_start, beta_end, num_steps))
    return NoiseSchedule(np.linspace(0.0, 1.0, num_steps), logsnr_of_alpha_squared(abar))


def cosine(logsnr_min: float, logsnr_max: float, num_knots: int = 1000) -> NoiseSchedule:
    """Return logsnr = -2 log tan(pi t / 2), cut to a range of logsnr. Source: [iDDPM] section 3.2, [VDM]
    appendix.
    """
    ends = 2.0 / np.pi * np.arctan(np.exp(-0.5 * np.array([logsnr_max, logsnr_min])))
    t = np.linspace(0.0, 1.0, num_knots)
    return NoiseSchedule(t, -2.0 * np.log(np.tan(0.5 * np.pi * (ends[0] + t * (ends[1] - ends[0])))))


def uniform(logsnr_min: float, logsnr_max: float, num_bins: int = 1) -> NoiseSchedule:
    """Return logsnr falling evenly from its maximum to its minimum."""
    return NoiseSchedule(
        np.linspace(0.0, 1.0, num_bins + 1), np.linspace(logsnr_max, logsnr_min, num_bins + 1)
    )


class AdaptiveSchedule:
    """A noise law that follows the loss: density proportional to how fast the loss changes with logsnr, and a
    floor.

    A histogram of the cross-entropy over logsnr, forgetting slowly, is smoothed and differentiated at each
    `refit`.

    Source: [CDCD] section 4 (time warping).
    """

    def __init__(
        self, logsnr_min: float, logsnr_max: float, num_bins: int, memory: float, floor: float
    ) -> None:
        self.edges = np.linspace(logsnr_min, logsnr_max, num_bins + 1)
        self.memory, self.floor = memory, floor
        self.weight: Array = np.zeros(num_bins)
        self.loss = np.zeros(num_bins)  # running mean per bin, nats per token
        self.law = uniform(logsnr_min, logsnr_max, num_bins)

    def observe(self, logsnr: ArrayLike, loss: ArrayLike) -> None:
        """Take in each example's noise level and loss (nats per token)."""
        bins = np.clip(np.searchsorted(self.edges, logsnr, side="right") - 1, 0, len(self.weight) - 1)
        count = np.bincount(bins, minlength=len(self.weight)).astype(np.float64)
        total = np.bincount(bins, weights=np.asarray(loss, np.float64), minlength=len(self.weight))
        kept = self.weight * self.memory**count
        mass = kept + count
        self.loss = np.where(count > 0, (kept * self.loss + total) / np.maximum(mass, 1), self.loss)
        self.weight = mass

    def refit(self) -> None:
        """Make the law follow the histogram; bins nothing was drawn from take their neighbours' loss."""
        seen = self.weight > 0
        if seen.sum() < len(seen) // 2:
            return
        centres = 0.5 * (self.edges[1:] + self.edges[:-1])
        slope = np.maximum(-np.gradient(_smooth(np.interp(centres, centres[seen], self.loss[seen]))), 0.0)
        even = np.full(len(seen), 1.0 / len(seen))
        share = even if slope.sum() == 0 else self.floor * even + (1 - self.floor) * slope / slope.sum()
        t = np.concatenate(([0.0], np.cumsum(share[::-1])))
        self.law = NoiseSchedule(t / t[-1], self.edges[::-1].copy())

    def state(self) -> dict[str, list[float]]:
        """Return all that a resumed run needs."""
        return {"weight": self.weight.tolist(), "loss": self.loss.tolist(), **self.law.to_json()}

    def restore(self, state: dict[str, list[float]]) -> None:
        """Take over `state` from a checkpoint."""
        self.weight, self.loss = np.array(state["weight"]), np.array(state["loss"])
        self.law = NoiseSchedule.from_json(state)


def _smooth(values: Array, width: float = 3.0) -> Array:
    """Average with a Gaussian of `width` bins, ends repeated; term by term, since `np.convolve` rounds as the
    machine's BLAS does.
    """
    reach = int(3 * width)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    padded = np.pad(values, reach, mode="edge")
    terms = (weight * padded[k : k + len(values)] for k, weight in enumerate(kernel / kernel.sum()))
    return np.asarray(sum(terms), np.float64)


def draw_times(num: int, rng: np.random.Generator) -> Array:
    """Return `num` times in [0, 1), one in each of `num` even slots, in random order. Source: [VDM] appendix
    I.1.
    """
    return rng.permutation((np.arange(num) + rng.random()) / num)


def sampling_times(num_steps: int) -> Array:
    """Return the times a sampler visits: from 1 to 0, both included; a single step is taken from noise
    alone.
    """
    if num_steps < 1:
        raise ValueError(f"a sampler needs at least 1 step, got {num_steps}")
    return np.linspace(1.0, 0.0, num_steps)
