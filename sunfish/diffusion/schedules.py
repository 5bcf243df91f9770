"""The schedules that a configuration can name. A schedule is one class and one entry of `SCHEDULES`.

The class is its section of params.yaml (`schedule: {kind: ..., ...}`), and `start` makes what a training
asks: its current `NoiseSchedule`, which an adaptive one changes by the losses that it observes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike

from sunfish.diffusion.schedule import Array, NoiseSchedule, cosine, linear_beta, uniform
from sunfish.errors import require


class TrainingSchedule(Protocol):
    """The noise schedule of a run as it stands, and what it makes of the losses it is shown."""

    current: NoiseSchedule

    def observe(self, logsnr: ArrayLike, loss: ArrayLike) -> None:
        """Take in noise levels and the losses there, both (num,)."""

    def end_step(self, step: int) -> None:
        """Learn that a step, counted from 0, is over."""

    def state(self) -> dict[str, Any]:
        """Return all that a resumed run needs."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take over `state` from a checkpoint."""


class ScheduleConfig(Protocol):
    """A section of params.yaml that makes a schedule."""

    def start(self) -> TrainingSchedule:
        """Return the schedule that a run begins with."""


class FixedSchedule:
    """A schedule that no loss changes."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.current = schedule

    def observe(self, logsnr: ArrayLike, loss: ArrayLike) -> None:
        """Ignore the losses."""

    def end_step(self, step: int) -> None:
        """Ignore the step."""

    def state(self) -> dict[str, Any]:
        """Return nothing: the configuration says it all."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over nothing."""


@dataclass(frozen=True, kw_only=True)
class LinearBeta:
    """The founding schedule, [DDPM] section 4: 1,000 betas from 1e-4 to 0.02."""

    kind: Literal["linear-beta"]

    def start(self) -> TrainingSchedule:
        """Return it; nothing changes it."""
        return FixedSchedule(linear_beta())


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """The cosine schedule cut to a range of logsnr, [iDDPM] section 3.2."""

    kind: Literal["cosine"]
    logsnr_min: float  # nats
    logsnr_max: float

    def __post_init__(self) -> None:
        require(
            self.logsnr_min < self.logsnr_max, "logsnr_min", f"must lie below logsnr_max = {self.logsnr_max}"
        )

    def start(self) -> TrainingSchedule:
        """Return it; nothing changes it."""
        return FixedSchedule(cosine(self.logsnr_min, self.logsnr_max))


@dataclass(frozen=True, kw_only=True)
class Adaptive:
    """A schedule that follows the loss, [CDCD] section 4; see `AdaptiveSchedule`."""

    kind: Literal["adaptive"]
    logsnr_min: float  # nats
    logsnr_max: float
    num_bins: int  # of the histogram of losses
    loss_ema_decay: float  # weight that an old observation keeps per new one in its bin
    uniform_fraction: float  # of the density that stays uniform in logsnr
    refit_every: int  # steps

    def __post_init__(self) -> None:
        require(
            self.logsnr_min < self.logsnr_max, "logsnr_min", f"must lie below logsnr_max = {self.logsnr_max}"
        )
        require(self.num_bins >= 10, "num_bins", "must be at least 10")
        require(0.0 < self.loss_ema_decay < 1.0, "loss_ema_decay", "must lie between 0 and 1, both excluded")
        require(0.0 < self.uniform_fraction <= 1.0, "uniform_fraction", "must lie above 0 and at most at 1")
        require(self.refit_every > 0, "refit_every", "must be at least 1")

    def start(self) -> TrainingSchedule:
        """Return it, uniform at first."""
        return AdaptiveSchedule(self)


class AdaptiveSchedule:
    """Density proportional to how fast the loss changes with logsnr, mixed with a uniform one.

    A histogram of the cross-entropy over logsnr, forgetting slowly, is smoothed and differentiated at each
    refit.

    Source: [CDCD] section 4 (time warping).
    """

    def __init__(self, config: Adaptive) -> None:
        self.config = config
        self.edges = np.linspace(config.logsnr_min, config.logsnr_max, config.num_bins + 1)
        self.weight: Array = np.zeros(config.num_bins)
        self.loss: Array = np.zeros(config.num_bins)  # running mean per bin
        self.current = uniform(config.logsnr_min, config.logsnr_max, config.num_bins)

    def observe(self, logsnr: ArrayLike, loss: ArrayLike) -> None:
        """Take in noise levels and losses, both (num,)."""
        num = len(self.weight)
        bins = np.clip(np.searchsorted(self.edges, logsnr, side="right") - 1, 0, num - 1)
        count = np.bincount(bins, minlength=num).astype(np.float64)
        total = np.bincount(bins, weights=np.asarray(loss, np.float64), minlength=num)
        kept = self.weight * self.config.loss_ema_decay**count
        self.weight = kept + count
        self.loss = np.where(count > 0, (kept * self.loss + total) / np.maximum(self.weight, 1), self.loss)

    def end_step(self, step: int) -> None:
        """Refit after every `refit_every` steps."""
        if (step + 1) % self.config.refit_every == 0:
            self.refit()

    def refit(self) -> None:
        """Make the schedule follow the histogram; bins without a draw take their neighbours' loss."""
        seen = self.weight > 0
        if seen.sum() < len(seen) // 2:
            return
        centres = 0.5 * (self.edges[1:] + self.edges[:-1])
        slope = np.maximum(-np.gradient(_smooth(np.interp(centres, centres[seen], self.loss[seen]))), 0.0)
        even = np.full(len(seen), 1.0 / len(seen))
        fraction = 1.0 if slope.sum() == 0 else self.config.uniform_fraction
        density = fraction * even + (1 - fraction) * slope / max(slope.sum(), np.finfo(float).tiny)
        t = np.concatenate(([0.0], np.cumsum(density[::-1])))
        self.current = NoiseSchedule(t / t[-1], self.edges[::-1].copy())

    def state(self) -> dict[str, Any]:
        """Return all that a resumed run needs."""
        return {"weight": self.weight.tolist(), "loss": self.loss.tolist(), **self.current.to_json()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over `state` from a checkpoint."""
        self.weight, self.loss = np.array(state["weight"]), np.array(state["loss"])
        self.current = NoiseSchedule.from_json(state)


def _smooth(values: Array, width: float = 3.0) -> Array:
    """Average with a Gaussian of `width` bins, ends repeated.

    Term by term, since `np.convolve` rounds as the machine's BLAS does.
    """
    reach = int(3 * width)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    padded = np.pad(values, reach, mode="edge")
    terms = (weight * padded[k : k + len(values)] for k, weight in enumerate(kernel / kernel.sum()))
    return np.asarray(sum(terms), np.float64)


SCHEDULES: dict[str, type] = {"linear-beta": LinearBeta, "cosine": Cosine, "adaptive": Adaptive}
