"""One text while a model is trained, to read in the log. Evaluation samples by `sunfish.sampling`.

It stands here in ten lines, so that an edit of a sampler is no reason to train again."""

from __future__ import annotations

import numpy as np
import torch

from sunfish.diffusion.schedule import NoiseSchedule, alpha, sigma
from sunfish.model.denoiser import Denoiser

STEPS = 32


@torch.no_grad()
def sample_ids(denoiser: Denoiser, schedule: NoiseSchedule, length: int, seed: int = 0) -> list[int]:
    """Return the ids of one text of `length` tokens, by DDIM with eta 0. Source: [DDIM] eq. 12."""
    device = next(denoiser.parameters()).device
    shape = (1, length, denoiser.config.emb_dim)
    noise = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    x, known = torch.from_numpy(noise).to(device), torch.zeros(1, length, dtype=torch.bool, device=device)
    levels = schedule.logsnr_at(np.linspace(1.0, 0.0, STEPS))
    x_0_hat = torch.zeros_like(x)
    with denoiser.cached_readout():
        for now, after in zip(levels, [*levels[1:], np.inf], strict=True):
            x_0_hat, logits = denoiser(x, torch.full((1,), float(now), device=device), x_0_hat, known)
            c_eps = float(sigma(after) / sigma(now))
            x = c_eps * x + float(alpha(after) - c_eps * alpha(now)) * x_0_hat
    return logits[0].argmax(dim=-1).tolist()
