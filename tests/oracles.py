"""Closed-form truths to hold samplers against."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sunfish.diffusion.schedule import NoiseSchedule, alpha, sigma
from sunfish.model.denoiser import Prediction
from sunfish.sampling.solvers import SolverTable
from sunfish.sampling.step import DenoiseStep, StepOutput

MEAN, STD = 0.7, 0.4  # of Gaussian data

Denoise = Callable[[Tensor, float], tuple[Tensor, Tensor]]  # (x_t, logsnr) -> (x_0_hat, logits)


def gaussian_denoiser(x_t: Tensor, logsnr: float) -> tuple[Tensor, Tensor]:
    """E[x_0 | x_t] for x_0 ~ N(MEAN, STD^2), exactly."""
    a, s = float(alpha(logsnr)), float(sigma(logsnr))
    gain = a * STD**2 / (a**2 * STD**2 + s**2)
    return MEAN + gain * (x_t - a * MEAN), x_t


def gaussian_flow(x_1: np.ndarray, schedule: NoiseSchedule) -> np.ndarray:
    """Where the deterministic flow carries x_1 at the schedule's last level down to clean data."""
    a, s = float(alpha(schedule.logsnr[-1])), float(sigma(schedule.logsnr[-1]))
    return MEAN + STD * (x_1 - a * MEAN) / np.sqrt(a**2 * STD**2 + s**2)


class ToyDenoiser(nn.Module):
    """A closed form in a denoiser's place, and a table of p(token | token before it) as its causal pass."""

    def __init__(
        self,
        denoise: Denoise = gaussian_denoiser,
        embeddings: np.ndarray | None = None,
        next_token_logits: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.denoise, self.next_logits = denoise, next_token_logits
        self.weight = torch.zeros(1, 1).double() if embeddings is None else torch.from_numpy(embeddings)

    def forward(self, x_t: Tensor, logsnr: Tensor, *_: Tensor) -> Prediction:
        return Prediction(*self.denoise(x_t, float(logsnr[0])))

    def embed(self, ids: Tensor) -> Tensor:
        return self.weight[ids]

    def next_token_logits(self, ids: Tensor) -> Tensor:
        """Row 0 of the table is of a text's first token, row k + 1 of what follows token k."""
        assert self.next_logits is not None
        return self.next_logits[torch.cat((torch.zeros_like(ids[:, :1]), ids[:, :-1] + 1), dim=1)]


def walk(
    table: SolverTable, toy: ToyDenoiser, x_1: np.ndarray, noises: Iterable[np.ndarray] | None = None
) -> StepOutput:
    """Walk a table in float64 by the project's own step, nothing known, and return the last step's output."""
    step, shape = DenoiseStep(toy), x_1.shape[:2]
    state = StepOutput(
        torch.from_numpy(x_1), torch.zeros(x_1.shape, dtype=torch.float64), torch.zeros(shape).long(),
        torch.zeros(shape).bool(), torch.zeros(shape).long(), torch.zeros(shape),
    )  # fmt: skip
    rng, one = np.random.default_rng(1), torch.tensor(1.0)
    drawn = repeat(np.zeros(x_1.shape)) if noises is None else noises
    for row, noise in zip(table.rows, drawn, strict=False):
        with torch.no_grad():
            state = step(
                state.x, state.x_0_hat, state.ids, state.known, torch.from_numpy(noise),
                torch.from_numpy(rng.random(shape)), torch.from_numpy(row), one, 0 * one,
                one * table.draws_tokens, torch.ones(len(x_1)),
            )  # fmt: skip
    return state


@torch.no_grad()
def surprise_margin(model: Any, ids: np.ndarray, epsilon: float) -> Tensor:
    """By how much log p of each token lies above the check's cutoff, (batch, pos), by torch's own."""
    chances = torch.distributions.Categorical(logits=model.next_token_logits(torch.from_numpy(ids)))
    mean = chances.entropy()
    deviation = ((chances.probs * chances.logits**2).sum(-1) - mean**2).clamp(min=0).sqrt()
    return chances.log_prob(torch.from_numpy(ids)) + mean - (1 + deviation) * math.log(epsilon)
