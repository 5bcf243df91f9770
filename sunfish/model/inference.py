"""Walk a sampler's table with a torch denoiser; noise comes from numpy, so the same seed means the same noise everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from sunfish.model.denoiser import Denoiser
from sunfish.sampler import Denoise, Step, Table, likeliest_ids, walk


@torch.no_grad()
def sample_steps(
    denoiser: Denoiser, table: Table, ids: np.ndarray, known: np.ndarray, rng: np.random.Generator, temperature: float = 1.0
) -> Iterator[Step]:
    """Yield each step of a walk from noise; where `known` (bool, (batch, pos)) holds, `ids` are given and stay.

    `temperature` sharpens (below 1) or flattens every estimate x_0_hat.
    """
    device = next(denoiser.parameters()).device
    mask = torch.from_numpy(known).to(device)
    x_known = denoiser.embed(torch.from_numpy(ids).to(device)) * mask[..., None]
    call = _denoise(denoiser, mask, temperature)
    draw = _noise(tuple(x_known.shape), rng, device)
    yield from walk(table, call, draw, x_known, mask[..., None].to(x_known.dtype))


def _denoise(denoiser: Denoiser, mask: Tensor, temperature: float) -> Denoise:
    heat = torch.full((mask.shape[0],), temperature, device=mask.device)

    def call(x: Tensor, logsnr: float, x_0_prev: Tensor) -> tuple[Tensor, Tensor]:
        level = torch.full((x.shape[0],), logsnr, device=x.device)
        return denoiser(x, level, x_0_prev, mask, heat)

    return call


def _noise(shape: tuple[int, ...], rng: np.random.Generator, device: torch.device) -> Callable[[], Tensor]:
    return lambda: torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)).to(device)


@torch.no_grad()
def sample_ids(
    denoiser: Denoiser, table: Table, ids: np.ndarray, known: np.ndarray, rng: np.random.Generator, temperature: float = 1.0
) -> np.ndarray:
    """Return sampled ids, (batch, pos); known positions keep theirs, the rest are the last step's likeliest tokens."""
    *_, last = sample_steps(denoiser, table, ids, known, rng, temperature)
    return likeliest_ids(Step(last.index, None, last.logits.float().cpu().numpy()), ids, known)


def sample_free(denoiser: Denoiser, table: Table, num: int, length: int, rng: np.random.Generator, temperature: float = 1.0) -> np.ndarray:
    """Return `num` rows sampled from pure noise."""
    return sample_ids(denoiser, table, np.zeros((num, length), np.int64), np.zeros((num, length), bool), rng, temperature)
