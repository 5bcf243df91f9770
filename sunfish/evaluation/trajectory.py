"""One text as it comes out of the noise: what stands where at each step, and how surely."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sunfish.model.denoiser import Denoiser
from sunfish.sampling.solvers import Given, Table, walk
from sunfish.sampling.torch_backend import TorchNetwork


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Each step's likeliest ids, their probabilities (1 where settled), which have settled, and the noise
    levels it leaves them at.
    """

    ids: np.ndarray  # (steps, pos)
    probability: np.ndarray  # (steps, pos)
    settled: np.ndarray  # bool, (steps, pos)
    logsnr: np.ndarray  # (steps, pos)


@torch.no_grad()
def follow(
    denoiser: Denoiser, table: Table, length: int, rng: np.random.Generator, temperature: float
) -> Trajectory:
    """Sample one text of `length` tokens and keep what each step thinks of it."""
    network = TorchNetwork(denoiser, rng, temperature)
    with denoiser.held():
        given = Given.nothing(1, length)
        steps = [
            (network.look(), network.moved.age)
            for _ in walk(table, network, given, table.places(given.known, rng))
        ]
    ids, sure, settled = (np.concatenate(values) for values in zip(*(look for look, _ in steps), strict=True))
    ages, rows = np.concatenate([age.cpu().numpy() for _, age in steps]), table.rows()
    logsnr = rows[
        np.minimum(ages, len(rows) - 1), 0
    ]  # a walk at once tells by its age whether a draft was said twice
    return Trajectory(ids, np.where(settled, 1.0, sure), settled, logsnr)
