"""Closed-form truths to hold samplers against."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from sunfish.model.denoiser import Prediction
from sunfish.sampling.torch_backend import TorchNetwork
from sunfish.sampling.solvers import Given, Table, walk
from sunfish.diffusion.schedule import NoiseSchedule, alpha, sigma

MEAN, STD = 0.7, 0.4  # of Gaussian data

Level = np.ndarray | float  # of each position, (batch, pos, 1), or of all
Denoise = Callable[
    [Tensor, Level, Tensor], tuple[Tensor, Tensor]
]  # (x, logsnr, x_0_prev) -> (x_0_hat, logits)


def gaussian_denoiser(x: Tensor, logsnr: Level, _: Tensor) -> tuple[Tensor, Tensor]:
    """E[x_0 | x_t] for x_0 ~ N(MEAN, STD^2), exactly."""
    a, s = torch.as_tensor(alpha(logsnr)), torch.as_tensor(sigma(logsnr))
    gain = a * STD**2 / (a**2 * STD**2 + s**2)
    return MEAN + gain * (x - a * MEAN), x


def gaussian_flow(x_1: np.ndarray, law: NoiseSchedule) -> np.ndarray:
    """Where the deterministic flow carries x_1 at the law's last level down to clean data."""
    a, s = float(alpha(law.logsnr[-1])), float(sigma(law.logsnr[-1]))
    return MEAN + STD * (x_1 - a * MEAN) / np.sqrt(a**2 * STD**2 + s**2)


class ToyDenoiser(nn.Module):
    """A closed form in a denoiser's place."""

    end_id: int | None = None
    told_before = False

    def __init__(self, denoise: Denoise, embeddings: np.ndarray) -> None:
        super().__init__()
        self.denoise = denoise
        self.weight = nn.Parameter(torch.from_numpy(embeddings), requires_grad=False)

    def forward(
        self, x: Tensor, logsnr: Tensor, x_0_prev: Tensor, known: Tensor, turn: Tensor, temperature: Tensor
    ) -> Prediction:
        self.last = Prediction(*self.denoise(x, logsnr[..., None].numpy(), x_0_prev))
        return self.last

    def predict_blocks(
        self, x_0_prev: Tensor, x_0: Tensor, x_t: Tensor, logsnr: Tensor, *_: Tensor, **__: Tensor
    ) -> Prediction:
        return Prediction(*self.denoise(x_t, logsnr[..., None].numpy(), x_0_prev))

    def embed(self, ids: Tensor) -> Tensor:
        return self.weight[ids]


class Toy(TorchNetwork):
    """The project's own step around a closed form, in float64 and with noise of one's choice."""

    def __init__(
        self,
        noise: Callable[[], np.ndarray],
        denoise: Denoise = gaussian_denoiser,
        embeddings: np.ndarray | None = None,
    ) -> None:
        table = np.zeros((1, 1)) if embeddings is None else embeddings
        super().__init__(ToyDenoiser(denoise, table), np.random.default_rng(0))  # type: ignore[arg-type]
        self.draw = noise

    def _noise(self) -> Tensor:
        return torch.from_numpy(self.draw())

    def _chance(self) -> Tensor:
        return torch.from_numpy(self.rng.random(self.shape[:2]))

    @property
    def x_0_hat(self) -> np.ndarray:
        # before its last row settles on a token
        return self.denoiser.last.x_0_hat.numpy()  # type: ignore[union-attr]


def end_of(table: Table, x_1: np.ndarray) -> np.ndarray:
    """Walk a deterministic table from x_1 with the Gaussian denoiser; its last estimate is where it lands."""
    toy = Toy(lambda: x_1)
    walk_all(table, toy, Given.nothing(*x_1.shape[:2]))
    return toy.x_0_hat


def walk_all(table: Table, toy: Toy, given: Given, place: np.ndarray | None = None) -> int:
    """Walk to the end, all at once unless there is an order, and return how many rows it took."""
    with torch.no_grad():
        return sum(1 for _ in walk(table, toy, given, np.zeros_like(given.ids) if place is None else place))


def drawn(noises: Iterator[np.ndarray]) -> Callable[[], np.ndarray]:
    """Return a source of these draws."""
    return lambda: next(noises)
