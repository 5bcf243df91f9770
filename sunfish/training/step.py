"""One training step's loss: embedding -> noise -> denoiser -> objective, on one screen."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from sunfish.diffusion.objective import cross_entropy, diffusion_nats, eps_mse, x0_mse
from sunfish.diffusion.process import add_noise
from sunfish.model.denoiser import Denoiser, number_documents
from sunfish.sections.diffusion import Section
from sunfish.training.draws import Draws

Loss = tuple[Tensor, Tensor]  # what is differentiated, (), a sum over all positions' number; and what is looked at, (batch, pos)


class StepLoss(nn.Module):
    """ids -> loss of one micro-batch: all of a step that is differentiated, in one call that can be wrapped and sharded.

    The second result, detached, is per position: the cross-entropy in nats (ce, elbo), which a noise law learns from, or a mean square
    (eps_mse, x0_mse); at known positions it means nothing.
    """

    def __init__(self, denoiser: Denoiser, section: Section, end_id: int | None = None) -> None:
        super().__init__()
        self.denoiser, self.section, self.end_id = denoiser, section, end_id  # with an end token, documents of a row see only themselves

    def forward(self, ids: np.ndarray, draws: Draws, logsnr: np.ndarray, density: np.ndarray) -> Loss:
        """Return the loss of `ids`, (batch, pos), at noise levels `logsnr`, (batch, pos), drawn with `density`; known positions stay clean
        and get no loss.
        """
        denoiser, device = self.denoiser, next(self.denoiser.parameters()).device
        target, known = torch.from_numpy(ids).to(device), torch.from_numpy(draws.known).to(device)
        level = torch.from_numpy(logsnr).float().to(device)
        x_0, document = denoiser.embed(target), number_documents(target, self.end_id)
        eps = draw_noise(draws, x_0)
        x_t = torch.where(known[..., None], x_0, add_noise(x_0, eps, level))
        rows = torch.from_numpy(np.flatnonzero(draws.estimated)).to(device)
        x_0_prev = first_estimate(denoiser, x_t, level, known, rows, document)
        if self.section.objective == "ce":
            loss = denoiser.predict_nats(x_t, level, x_0_prev, known, target, document)
            return (loss * ~known).mean(), loss.detach()
        x_0_hat, logits = denoiser.predict(x_t, level, x_0_prev, known, document=document)
        if self.section.objective == "elbo":
            weight = draws.deciding / np.where(draws.deciding, density, 1.0)  # noise alone is no part of the bound
            loss = diffusion_nats(x_0, x_0_hat, level) * torch.from_numpy(weight).float().to(device)
            return loss.mean(), cross_entropy(logits.detach(), target)
        loss = eps_mse(x_t, eps, x_0_hat, level) if self.section.objective == "eps_mse" else x0_mse(x_0, x_0_hat)
        return (loss * ~known).mean(), loss.detach()


def draw_noise(draws: Draws, x_0: Tensor) -> Tensor:
    """Return eps, of x_0's shape: these rows' part of the whole batch's noise, which is the same however the batch is shared out."""
    generator = torch.Generator(x_0.device).manual_seed(draws.noise_seed)
    everything = torch.randn((draws.batch_rows, *x_0.shape[1:]), generator=generator, device=x_0.device)
    return everything[draws.first_row : draws.first_row + len(x_0)]


@torch.no_grad()
def first_estimate(denoiser: Denoiser, x_t: Tensor, logsnr: Tensor, known: Tensor, rows: Tensor, document: Tensor | None = None) -> Tensor:
    """Return x_0_prev: the denoiser's own estimate for `rows`, zeros for the rest. Source: [AnalogBits] section 3.1."""
    x_0_prev = torch.zeros_like(x_t)
    if len(rows):
        theirs = None if document is None else document[rows]
        x_0_prev[rows] = denoiser.predict(x_t[rows], logsnr[rows], x_0_prev[rows], known[rows], document=theirs).x_0_hat
    return x_0_prev
