"""One training step's loss: embedding -> noise -> denoiser -> objective, on one screen."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from sunfish.diffusion.objectives import cross_entropy, diffusion_nats, eps_mse, x0_mse
from sunfish.diffusion.process import add_noise
from sunfish.model.denoiser import Denoiser
from sunfish.model.attention_mask import Shown, number_documents, show_clean, show_copies, show_noisy
from sunfish.config.schema.diffusion import Blocks, DiffusionConfig
from sunfish.diffusion.conditioning import Draws, Rows

Loss = tuple[
    Tensor, Tensor
]  # what is differentiated, (), a sum over all positions' number; and what is looked at, (batch, pos)


class DiffusionLoss(nn.Module):
    """ids -> loss of one micro-batch: all of a step that is differentiated, in one call that can be wrapped
    and sharded.

    The second result, detached, is per position: the cross-entropy in nats (ce, elbo), which a noise law
    learns from, or a mean square (eps_mse, x0_mse); where no noisy copy is asked it means nothing."""

    def __init__(self, denoiser: Denoiser, section: DiffusionConfig, end_id: int | None = None) -> None:
        super().__init__()
        self.denoiser, self.section, self.end_id = (
            denoiser,
            section,
            end_id,
        )  # with an end token, documents of a row see only themselves

    def forward(self, ids: np.ndarray, draws: Draws, logsnr: np.ndarray, density: np.ndarray) -> Loss:
        """Return the loss of `ids`, (batch, pos), at noise levels `logsnr`, (batch, pos), drawn with
        `density`; known positions stay clean and get no loss.
        """
        denoiser, device = self.denoiser, next(self.denoiser.parameters()).device
        target, known = torch.from_numpy(ids).to(device), torch.from_numpy(draws.known).to(device)
        level = torch.from_numpy(logsnr).float().to(device)
        x_0 = denoiser.embed(target)
        eps = draw_noise(draws, x_0)
        x_t = torch.where(known[..., None], x_0, add_noise(x_0, eps, level))
        document = number_documents(target, self.end_id)
        rows = draws.shared_out()
        shown = (
            show_rows(x_0, x_t, level, known, draws, rows, document)
            if self.section.blocks
            else show_noisy(x_t, level, known, document)
        )
        x_0_prev = first_estimate(
            denoiser, shown, torch.from_numpy(np.flatnonzero(draws.estimated[rows.twice])).to(device)
        )
        if self.section.objective == "ce" and self.section.blocks:
            return self._with_next_tokens(shown, x_0_prev, target, draws, rows, self.section.blocks)
        if self.section.objective == "ce":
            nats = denoiser.predict_nats(*shown.told(x_0_prev), target, ~known / known.numel())
            return (nats * ~known).mean(), nats.detach()
        x_0_hat, logits = (values[:, -ids.shape[1] :] for values in denoiser.predict(*shown.told(x_0_prev)))
        if self.section.objective == "elbo":
            weight = draws.deciding / np.where(
                draws.deciding, density, 1.0
            )  # noise alone is no part of the bound
            loss = diffusion_nats(x_0, x_0_hat, level) * torch.from_numpy(weight).float().to(device)
            return loss.mean(), cross_entropy(logits.detach(), target)
        loss = (
            eps_mse(x_t, eps, x_0_hat, level) if self.section.objective == "eps_mse" else x0_mse(x_0, x_0_hat)
        )
        return (loss * ~known).mean(), loss.detach()

    def _with_next_tokens(
        self, shown: Shown, x_0_prev: Tensor, target: Tensor, draws: Draws, rows: Rows, blocks: Blocks
    ) -> Loss:
        """Return the loss of the noisy copies' tokens, and of what the clean ones say comes next where they
        have not seen it.

        Noisy copies count as if every row had one.
        """
        unseen = blocks.next_token * np.pad(draws.place[:, 1:] > draws.place[:, :-1], ((0, 0), (0, 1)))
        counts = lay_out(torch.from_numpy(unseen), torch.from_numpy(draws.asked / blocks.noisy_share), rows)
        share, ids = (
            (counts / target.numel()).float().to(target.device),
            lay_out(target.roll(-1, dims=1), target, rows),
        )
        nats = self.denoiser.predict_nats(*shown.told(x_0_prev), ids, share)
        seen = nats.new_zeros(target.shape)
        seen[rows.twice] = nats.detach()[: len(rows.twice), target.shape[1] :]
        return (nats * share).sum(), seen


def lay_out(clean: Tensor, noisy: Tensor, rows: Rows) -> Tensor:
    """Return what belongs to each position of both copies, each (batch, pos), in the places where `show_rows`
    shows them.
    """
    return torch.cat(
        (torch.cat((clean, noisy), dim=1)[rows.twice], clean[rows.alone].reshape(-1, 2 * clean.shape[1]))
    )


def show_rows(
    x_0: Tensor, x_t: Tensor, logsnr: Tensor, known: Tensor, draws: Draws, rows: Rows, document: Tensor | None
) -> Shown:
    """Show the rows that have a noisy copy in two, and behind them the others' clean ones in pairs."""
    twice, alone = rows
    place, start, said = (
        torch.from_numpy(values).to(x_0.device) for values in (draws.place, draws.start, draws.said)
    )
    if not len(alone):
        return show_copies(x_0, x_t, logsnr, known, place, start, document, said)
    noisy, clean = (None, None) if document is None else (document[twice], document[alone])
    shown = show_copies(
        x_0[twice], x_t[twice], logsnr[twice], known[twice], place[twice], start[twice], noisy, said[twice]
    )
    return shown.beside(show_clean(x_0[alone], logsnr[alone], place[alone], clean))


def draw_noise(draws: Draws, x_0: Tensor) -> Tensor:
    """Return eps, of x_0's shape: these rows' part of the whole batch's noise, which is the same however the
    batch is shared out.
    """
    generator = torch.Generator(x_0.device).manual_seed(draws.noise_seed)
    everything = torch.randn((draws.batch_rows, *x_0.shape[1:]), generator=generator, device=x_0.device)
    return everything[draws.first_row : draws.first_row + len(x_0)]


@torch.no_grad()
def first_estimate(denoiser: Denoiser, shown: Shown, rows: Tensor) -> Tensor:
    """Return x_0_prev: the denoiser's own estimate for `rows`, zeros for the rest. Source: [AnalogBits]
    section 3.1.
    """
    x_0_prev = torch.zeros_like(shown.x)
    if len(rows):
        theirs = shown.rows(rows)
        x_0_prev[rows] = denoiser.predict(*theirs.told(x_0_prev[rows])).x_0_hat
    return x_0_prev
