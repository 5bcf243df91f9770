"""The variational bound on held-out text, whole rows at once, and the loss by noise level.

-log p(ids) <= prior KL + diffusion term + reconstruction + length. Source: [VDM] eq. 11."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sunfish.diffusion.lengths import RowLengths
from sunfish.diffusion.objectives import diffusion_nats
from sunfish.diffusion.process import add_noise
from sunfish.diffusion.schedule import Array, NoiseSchedule, alpha, draw_times, sigma
from sunfish.model.attention_mask import document_ids
from sunfish.model.denoiser import Denoiser
from sunfish.progress import track
from sunfish.sampling.loop import Conditioning

NUM_LEVEL_BINS = 30
# of the noise levels: an adaptive schedule seldom looks where losses are rare and large
UNIFORM_FRACTION = 0.5


@dataclass(frozen=True, eq=False)
class Bound:
    """The terms of each row's bound in nats, and the cross-entropy by noise level."""

    diffusion_nats: Array  # (rows,)
    reconstruction_nats: Array  # (rows,)
    prior_nats: Array  # (rows,)
    length_nats: Array  # (rows,)
    level_logsnr: Array  # (bins,)
    level_ce: Array  # (bins,) nats per token
    level_density: Array  # (bins,) share of the noise schedule per nat

    @property
    def nats(self) -> Array:
        """Return each row's bound."""
        return self.diffusion_nats + self.reconstruction_nats + self.prior_nats + self.length_nats


@dataclass(frozen=True)
class BoundEstimator:
    """All that the bound of any batch needs; `separator_id` keeps documents of a row apart."""

    denoiser: Denoiser
    schedule: NoiseSchedule
    num_levels: int  # per row
    rng: np.random.Generator
    separator_id: int | None = None

    @torch.no_grad()
    def bound(self, batches: Sequence[Conditioning], lengths: RowLengths | None) -> Bound:
        """Return the bound of batches of ids, each (rows, pos) of one length.

        Known positions are given and cost nothing. Each row is at one noise level at a time, half of them
        drawn from the schedule and half evenly, weighted by that density: the mean is unbiased. The estimate
        is self-conditioned on the denoiser's first one of the same x_t, a function of x_t: the bound stays
        valid. A row's length is drawn before its text and costs -log p(length); with `lengths` None it is
        given.

        Source: [VDM] eq. 11 and 17; [Defensive] section 2 for the mixture.
        """
        terms = [self._terms(batch) for batch in track(batches, "bound", "batches", len(batches))]
        sizes = np.concatenate([np.full(len(batch.ids), batch.ids.shape[1]) for batch in batches])
        length_nats = np.zeros(len(sizes)) if lengths is None else lengths.nats(sizes)
        diffusion, reconstruction, prior, levels, ce = map(np.concatenate, zip(*terms, strict=True))
        return Bound(diffusion, reconstruction, prior, length_nats, *by_level(self.schedule, levels, ce))

    def _terms(self, batch: Conditioning) -> tuple[Array, Array, Array, Array, Array]:
        """Return the three terms per row, and the level and cross-entropy of each unknown position seen."""
        unknown, rows, num = ~batch.known, len(batch.ids), self.num_levels
        drawn_from = self.schedule.mix_with_uniform(UNIFORM_FRACTION)
        diffusion, levels, ce = np.zeros(rows), [], []
        for k in range(num):
            logsnr = drawn_from.logsnr_at((draw_times(rows, self.rng) + k) / num)
            per_nat, nats = self._denoise(batch, logsnr)
            diffusion += (per_nat * unknown).sum(axis=1) / drawn_from.density(logsnr) / num
            levels.append(np.repeat(logsnr, unknown.sum(axis=1)))
            ce.append(nats[unknown])
        _, nats = self._denoise(batch, np.full(rows, self.schedule.logsnr[0]))
        prior = prior_kl_nats(self.denoiser.config.emb_dim, self.schedule) * unknown.sum(axis=1)
        return diffusion, (nats * unknown).sum(axis=1), prior, np.concatenate(levels), np.concatenate(ce)

    def _denoise(self, batch: Conditioning, logsnr: Array) -> tuple[Array, Array]:
        """Return the diffusion term per nat of logsnr and the cross-entropy, in nats, both (rows, pos)."""
        device = next(self.denoiser.parameters()).device
        arrays = batch.ids, batch.known, logsnr.astype(np.float32)
        ids, known, level = (torch.from_numpy(values).to(device) for values in arrays)
        x_0 = self.denoiser.embed(ids)
        eps = torch.from_numpy(self.rng.standard_normal(x_0.shape, dtype=np.float32)).to(device)
        x_t = torch.where(known[..., None], x_0, add_noise(x_0, eps, level))
        document = document_ids(ids, self.separator_id)
        first = self.denoiser(x_t, level, torch.zeros_like(x_t), known, None, document).x_0_hat
        x_0_hat, logits = self.denoiser(x_t, level, first, known, None, document)
        nats = F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").view(ids.shape)
        return to_numpy(diffusion_nats(x_0, x_0_hat, level)), to_numpy(nats)


def to_numpy(values: Tensor) -> Array:
    """Return values in float64 on the CPU."""
    return values.double().cpu().numpy()


def prior_kl_nats(emb_dim: int, schedule: NoiseSchedule) -> float:
    """Return KL(q(x_1 | x_0) || N(0, 1)) per position; every embedding has mean square 1, so all have the
    same.

    Source: [VDM] eq. 14."""
    variance = float(sigma(schedule.logsnr[-1])) ** 2
    return 0.5 * emb_dim * (float(alpha(schedule.logsnr[-1])) ** 2 + variance - 1.0 - math.log(variance))


def by_level(schedule: NoiseSchedule, levels: Array, ce: Array) -> tuple[Array, Array, Array]:
    """Return centres of bins of logsnr, the mean cross-entropy there, and the schedule's density there."""
    edges = np.linspace(schedule.logsnr[-1], schedule.logsnr[0], NUM_LEVEL_BINS + 1)
    bins = np.clip(np.searchsorted(edges, levels, side="right") - 1, 0, NUM_LEVEL_BINS - 1)
    count = np.bincount(bins, minlength=NUM_LEVEL_BINS)
    seen = count > 0
    mean = np.bincount(bins, weights=ce, minlength=NUM_LEVEL_BINS)[seen] / count[seen]
    centres = (0.5 * (edges[1:] + edges[:-1]))[seen]
    return centres, mean, schedule.density(centres)
