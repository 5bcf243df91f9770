"""One training step's loss: embedding -> noise -> denoiser -> objective, on one screen."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from sunfish.diffusion.objective import eps_mse, mean_over
from sunfish.diffusion.process import add_noise
from sunfish.model.denoiser import Denoiser, number_documents
from sunfish.sections.diffusion import Section
from sunfish.training.draws import Draws

Loss = tuple[Tensor, Tensor]  # what is differentiated, (), mean over rows; and what is looked at, (batch,)


class StepLoss(nn.Module):
    """ids -> loss of one micro-batch: all of a step that is differentiated, in one call that can be wrapped and sharded.

    The first result is the mean over rows; the second, detached, is per row: nats per token (ce) or mean square (eps_mse), over unknown
    positions only.
    """

    def __init__(self, denoiser: Denoiser, section: Section, end_id: int | None = None) -> None:
        super().__init__()
        self.denoiser, self.section, self.end_id = denoiser, section, end_id  # with an end token, documents of a row see only themselves

    def forward(self, ids: np.ndarray, draws: Draws, logsnr: np.ndarray) -> Loss:
        """Return the loss of `ids`, (batch, pos), at noise levels `logsnr`, (batch,); known positions stay clean and get no loss."""
        denoiser, device = self.denoiser, next(self.denoiser.parameters()).device
        target, known = torch.from_numpy(ids).to(device), torch.from_numpy(draws.known).to(device)
        level = torch.from_numpy(logsnr).float().to(device)
        x_0, document = denoiser.embed(target), number_documents(target, self.end_id)
        eps = draw_noise(draws, x_0)
        x_t = torch.where(known[..., None], x_0, add_noise(x_0, eps, level))
        rows = torch.from_numpy(np.flatnonzero(draws.estimated)).to(device)
        x_0_prev = first_estimate(denoiser, x_t, level, known, rows, document)
        if self.section.objective == "ce":
            per_example = mean_over(denoiser.predict_nats(x_t, level, x_0_prev, known, target, document), ~known)
        else:
            x_0_hat = denoiser.predict(x_t, level, x_0_prev, known, document=document).x_0_hat
            per_example = eps_mse(x_t, eps, x_0_hat, level, ~known)
        weight = (~known).float().mean(dim=1)  # a row counts by its unknown positions
        return (per_example * weight).mean(), per_example.detach()


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
