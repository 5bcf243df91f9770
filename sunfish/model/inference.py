"""Walk a sampler's table with a torch denoiser; noise comes from numpy, so the same seed means the same noise everywhere."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sunfish.model.denoiser import Denoiser
from sunfish.sampler import Given, Table, last_step, walk


class TorchNetwork:
    """A denoiser, a source of noise and a temperature, as `sampler.walk` wants them.

    `temperature` sharpens (below 1) or flattens every estimate x_0_hat.
    """

    def __init__(self, denoiser: Denoiser, shape: tuple[int, int], rng: np.random.Generator, temperature: float = 1.0) -> None:
        self.denoiser, self.rng = denoiser, rng
        self.shape = (*shape, denoiser.section.emb_dim)
        self.device = next(denoiser.parameters()).device
        self.heat = torch.full(shape[:1], temperature, device=self.device)

    def noise(self) -> Tensor:
        return torch.from_numpy(self.rng.standard_normal(self.shape, dtype=np.float32)).to(self.device)

    def clean(self, given: Given) -> tuple[Tensor, Tensor]:
        known = torch.from_numpy(given.known).to(self.device)[..., None]
        return self.denoiser.embed(torch.from_numpy(given.ids).to(self.device)) * known, known.float()

    def denoise(self, x: Tensor, logsnr: float, x_0_prev: Tensor, given: Given) -> tuple[Tensor, Tensor]:
        level = torch.full(self.heat.shape, logsnr, device=self.device)
        return self.denoiser(x, level, x_0_prev, torch.from_numpy(given.known).to(self.device), self.heat)

    def likeliest(self, logits: Tensor) -> tuple[np.ndarray, np.ndarray]:
        best, ids = logits.float().max(dim=-1)
        return (best - logits.float().logsumexp(dim=-1)).exp().cpu().numpy(), ids.cpu().numpy()


@torch.no_grad()
def sample_ids(denoiser: Denoiser, table: Table, given: Given, rng: np.random.Generator, temperature: float = 1.0) -> np.ndarray:
    """Return sampled ids, (batch, pos); known positions keep theirs, the rest are the last step's likeliest tokens."""
    network = TorchNetwork(denoiser, given.ids.shape, rng, temperature)
    last = last_step(walk(table, network, given))
    return given.text(network.likeliest(last.logits)[1])


def sample_free(denoiser: Denoiser, table: Table, num: int, length: int, rng: np.random.Generator, temperature: float = 1.0) -> np.ndarray:
    """Return `num` rows sampled from pure noise."""
    return sample_ids(denoiser, table, Given.nothing(num, length), rng, temperature)
