"""A noise schedule: t <-> logsnr <-> (alpha, sigma), training times and sampling grids, in float64 without
torch.

`t = 0` is data, `t = 1` is noise; `logsnr = log(alpha^2 / sigma^2)` in nats falls with t; alpha^2 + sigma^2 =
1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def alpha(logsnr: ArrayLike) -> Array:
    """Return sqrt(sigmoid(logsnr)), the scale of the data."""
    return np.exp(-0.5 * np.logaddexp(0.0, -np.asarray(logsnr, np.float64)))


def sigma(logsnr: ArrayLike) -> Array:
    """Return sqrt(sigmoid(-logsnr)), the scale of the noise."""
    return alpha(-np.asarray(logsnr, np.float64))


def logsnr_of_alpha_squared(alpha_squared: ArrayLike) -> Array:
    """Return log(abar / (1 - abar)), the inverse of `alpha` squared (abar in [DDPM])."""
    abar = np.asarray(alpha_squared, np.float64)
    return np.log(abar) - np.log1p(-abar)


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """A falling curve t -> logsnr, linear between knots; every schedule, fixed or adaptive, is such a table.

    `t` rises from 0 to 1. Read as a distribution, the schedule draws noise levels with density -dt/dlogsnr.
    Walking t from 1 to 0 in even steps spends a sampler's steps by the same density.

    Raises:
        ValueError: the knots are fewer than two, not monotonic, not finite, or do not run from 0 to 1.
    """

    t: Array
    logsnr: Array

    def __post_init__(self) -> None:
        if self.t.shape != self.logsnr.shape or self.t.ndim != 1 or len(self.t) < 2:
            raise ValueError(
                "a noise schedule needs two equally long lists of at least two knots, t and logsnr"
            )
        if not (np.isfinite(self.t).all() and np.isfinite(self.logsnr).all()):
            raise ValueError("a noise schedule's knots must be finite")
        if not (np.diff(self.t) > 0).all() or not (np.diff(self.logsnr) < 0).all():
            raise ValueError("a noise schedule's t must rise and its logsnr must fall from knot to knot")
        if self.t[0] != 0.0 or self.t[-1] != 1.0:
            raise ValueError("a noise schedule's t must run from 0 to 1")

    def logsnr_at(self, t: ArrayLike) -> Array:
        """Return logsnr (nats) at times in [0, 1]."""
        return np.interp(np.asarray(t, np.float64), self.t, self.logsnr)

    def t_at(self, logsnr: ArrayLike) -> Array:
        """Return the time of each logsnr, the inverse of `logsnr_at`."""
        return np.interp(np.asarray(logsnr), self.logsnr[::-1], self.t[::-1])

    def density(self, logsnr: ArrayLike) -> Array:
        """Return -dt/dlogsnr, the share of draws (or steps) per nat; 0 outside the schedule's range."""
        bins = np.searchsorted(-self.logsnr, -np.asarray(logsnr, np.float64), side="right") - 1
        inside = (bins >= 0) & (bins < len(self.t) - 1)
        slopes = np.diff(self.t) / -np.diff(self.logsnr)
        return np.where(inside, slopes[np.clip(bins, 0, len(slopes) - 1)], 0.0)

    def mix_with_uniform(self, fraction: float) -> NoiseSchedule:
        """Return a schedule whose density is uniform in logsnr to this fraction, the rest as here.

        Source: [Defensive] section 2 (defensive mixtures).
        """
        even = (self.logsnr[0] - self.logsnr) / (self.logsnr[0] - self.logsnr[-1])
        return NoiseSchedule((1.0 - fraction) * self.t + fraction * even, self.logsnr)

    def to_json(self) -> dict[str, list[float]]:
        """Return plain lists; `from_json` reads them back to the same bits."""
        return {"t": self.t.tolist(), "logsnr": self.logsnr.tolist()}

    @classmethod
    def from_json(cls, lists: dict[str, list[float]]) -> NoiseSchedule:
        """Rebuild a schedule from `to_json`."""
        return cls(np.array(lists["t"], np.float64), np.array(lists["logsnr"], np.float64))


def linear_beta(num_steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> NoiseSchedule:
    """Return the founding schedule: betas linear in the step, abar their running product. Source: [DDPM]
    section 4.
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


def draw_times(num: int, rng: np.random.Generator) -> Array:
    """Return `num` times in [0, 1), one in each of `num` even slots, in random order. Source: [VDM] appendix
    I.1.
    """
    return rng.permutation((np.arange(num) + rng.random()) / num)
