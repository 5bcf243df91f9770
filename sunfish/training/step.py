"""One training step's loss: embedding -> noise -> denoiser -> objective, on one screen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sunfish.diffusion.objective import cross_entropy, eps_mse
from sunfish.diffusion.process import add_noise
from sunfish.model.denoiser import Denoiser
from sunfish.schedule import NoiseLaw
from sunfish.sections.diffusion import Section
from sunfish.training.draws import Draws


@dataclass(frozen=True)
class Loss:
    """A micro-batch's loss: `total` is differentiated, `per_example` is looked at, both over unknown positions only."""

    total: Tensor  # (), mean over rows
    per_example: Tensor  # (batch,), nats per token (ce) or mean square (eps_mse)


def step_loss(denoiser: Denoiser, section: Section, law: NoiseLaw, ids: np.ndarray, draws: Draws) -> Loss:
    """Return the loss of one micro-batch of ids, (batch, pos); known positions stay clean and get no loss."""
    device = next(denoiser.parameters()).device
    target = torch.from_numpy(ids).to(device)
    known = torch.from_numpy(draws.known).to(device)
    logsnr = torch.from_numpy(law.logsnr_at(draws.times)).float().to(device)
    x_0 = denoiser.embed(target)
    eps = torch.randn(x_0.shape, generator=torch.Generator(device).manual_seed(int(draws.noise_seeds[0])), device=device)
    x_t = torch.where(known[..., None], x_0, add_noise(x_0, eps, logsnr))
    x_0_prev = first_estimate(denoiser, x_t, logsnr, known, round(section.self_conditioning * len(ids)))
    if section.objective == "ce":
        per_example = cross_entropy(denoiser.predict_logits(x_t, logsnr, x_0_prev, known), target, ~known)
    else:
        x_0_hat = denoiser.predict(x_t, logsnr, x_0_prev, known).x_0_hat
        per_example = eps_mse(x_t, eps, x_0_hat, logsnr, ~known)
    weight = (~known).float().mean(dim=1)  # a row counts by its unknown positions
    return Loss((per_example * weight).mean(), per_example.detach())


@torch.no_grad()
def first_estimate(denoiser: Denoiser, x_t: Tensor, logsnr: Tensor, known: Tensor, num_rows: int) -> Tensor:
    """Return x_0_prev: the denoiser's own estimate for the first `num_rows` rows, zeros for the rest.

    Rows and noise levels come in random order, so the first ones are as good as any, and the shapes never change.

    Source: [AnalogBits] section 3.1.
    """
    x_0_prev = torch.zeros_like(x_t)
    if num_rows:
        part = slice(0, num_rows)
        x_0_prev[part] = denoiser.predict(x_t[part], logsnr[part], x_0_prev[part], known[part]).x_0_hat
    return x_0_prev
