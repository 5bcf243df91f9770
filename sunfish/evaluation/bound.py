"""The variational bound on held-out text, its error, and the loss by noise level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sunfish.diffusion.objective import cross_entropy, diffusion_nats
from sunfish.diffusion.process import add_noise
from sunfish.lengths import RowLengths
from sunfish.model.denoiser import Denoiser, number_documents
from sunfish.progress import track
from sunfish.sampler import Given
from sunfish.schedule import NoiseLaw, alpha, draw_times, sigma

NUM_LEVEL_BINS = 30


@dataclass(frozen=True, eq=False)
class Bound:
    """-log p(ids) per row in nats, at most; its terms, and the cross-entropy by noise level.

    Source: [VDM] eq. 11: prior KL + diffusion term + reconstruction; and the length.
    """

    diffusion_nats: np.ndarray  # (rows,)
    reconstruction_nats: np.ndarray  # (rows,)
    prior_nats: np.ndarray  # (rows,)
    length_nats: np.ndarray  # (rows,)
    level_logsnr: np.ndarray  # (bins,)
    level_ce: np.ndarray  # (bins,) nats per token
    level_density: np.ndarray  # (bins,) share of the noise law per nat

    @property
    def nats(self) -> np.ndarray:
        """Return each row's bound."""
        return self.diffusion_nats + self.reconstruction_nats + self.prior_nats + self.length_nats


@dataclass(frozen=True, eq=False)
class _Terms:
    """One batch's share of the bound: per row, and per row and level."""

    diffusion: np.ndarray  # (rows,)
    reconstruction: np.ndarray  # (rows,)
    prior: np.ndarray  # (rows,)
    logsnr: np.ndarray  # (rows, levels)
    ce: np.ndarray  # (rows, levels)


@torch.no_grad()
def variational_bound(
    denoiser: Denoiser,
    law: NoiseLaw,
    lengths: RowLengths | None,
    batches: Sequence[Given],
    num_levels: int,
    rng: np.random.Generator,
    end_id: int | None = None,
) -> Bound:
    """Return the bound of batches of ids, each (rows, pos) of one length, every row seen at `num_levels` noise levels.

    What is known costs nothing: the bound is that of the unknown positions given the known ones.

    The integral over logsnr is drawn by the noise law and weighted by its density, so it is unbiased. The estimate conditions
    on the denoiser's own first one at the same x_t, which is a function of x_t: the bound stays valid. A row's length is drawn
    before its text, so it costs -log p(length); with `lengths` None it is given and costs nothing. With an end token, documents
    of a row do not see each other, and where they end is given, too.
    """
    terms = [_terms(denoiser, law, given, num_levels, rng, end_id) for given in track(batches, "bound", "batches", len(batches))]
    sizes = np.concatenate([np.full(len(given.ids), given.ids.shape[1]) for given in batches])
    length_nats = np.zeros(len(sizes)) if lengths is None else lengths.nats(sizes)
    diffusion, reconstruction, prior = (np.concatenate([getattr(t, k) for t in terms]) for k in ("diffusion", "reconstruction", "prior"))
    levels, ce = (np.concatenate([getattr(t, k) for t in terms]) for k in ("logsnr", "ce"))
    return Bound(diffusion, reconstruction, prior, length_nats, *_by_level(law, levels, ce))


def _terms(denoiser: Denoiser, law: NoiseLaw, given: Given, num_levels: int, rng: np.random.Generator, end_id: int | None) -> _Terms:
    rows, unknown = len(given.ids), (~given.known).sum(axis=1)
    levels = np.stack([draw_times(rows, rng) for _ in range(num_levels)], axis=1)
    levels = law.logsnr_at((levels + np.arange(num_levels)) / num_levels)
    seen = [_at_level(denoiser, given, levels[:, k], rng, end_id) for k in range(num_levels)]
    diffusion, ce = (np.stack([pair[i] for pair in seen], axis=1) for i in (0, 1))
    reconstruction = _at_level(denoiser, given, np.full(rows, law.logsnr[0]), rng, end_id)[1] * unknown
    prior = prior_kl_nats(denoiser, law) * unknown
    return _Terms((diffusion / law.density(levels)).mean(axis=1), reconstruction, prior, levels, ce)


def _at_level(
    denoiser: Denoiser, given: Given, logsnr: np.ndarray, rng: np.random.Generator, end_id: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the diffusion term per unit of logsnr (nats per row) and the cross-entropy (nats per token)."""
    device = next(denoiser.parameters()).device
    target, known, level = (torch.from_numpy(values).to(device) for values in (given.ids, given.known, logsnr.astype(np.float32)))
    x_0 = denoiser.embed(target)
    eps = torch.from_numpy(rng.standard_normal(x_0.shape, dtype=np.float32)).to(device)
    x_t = torch.where(known[..., None], x_0, add_noise(x_0, eps, level))
    apart = {} if end_id is None else {"document": number_documents(target, end_id)}
    first = denoiser(x_t, level, torch.zeros_like(x_t), known, **apart).x_0_hat
    x_0_hat, logits = denoiser(x_t, level, first, known, **apart)
    return _numpy(diffusion_nats(x_0, x_0_hat, level, ~known)), _numpy(cross_entropy(logits, target, ~known))


def _numpy(values: Tensor) -> np.ndarray:
    return values.double().cpu().numpy()


def prior_kl_nats(denoiser: Denoiser, law: NoiseLaw) -> float:
    """Return KL(q(x_1 | x_0) || N(0, 1)) per position; every embedding has mean square 1, so it is the same for all."""
    variance = float(sigma(law.logsnr[-1])) ** 2
    per_coordinate = 0.5 * (float(alpha(law.logsnr[-1])) ** 2 + variance - 1.0 - math.log(variance))
    return per_coordinate * denoiser.section.emb_dim


def _by_level(law: NoiseLaw, levels: np.ndarray, ce: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    edges = np.linspace(law.logsnr[-1], law.logsnr[0], NUM_LEVEL_BINS + 1)
    bins = np.clip(np.searchsorted(edges, levels.ravel(), side="right") - 1, 0, NUM_LEVEL_BINS - 1)
    count = np.bincount(bins, minlength=NUM_LEVEL_BINS)
    seen = count > 0
    mean = np.bincount(bins, weights=ce.ravel(), minlength=NUM_LEVEL_BINS)[seen] / count[seen]
    centres = (0.5 * (edges[1:] + edges[:-1]))[seen]
    return centres, mean, law.density(centres)


def bound_metrics(bound: Bound, num_tokens: int, num_bytes: int) -> dict[str, float]:
    """Return nats per token, perplexity and bits per byte with their standard error.

    `num_tokens` counts what the rows say: text and one end token each, not the filling behind it; what the filling costs
    is in the sum all the same.
    """
    total, rows = float(bound.nats.sum()), len(bound.nats)
    error = float(bound.nats.std(ddof=1) / math.sqrt(rows)) * rows if rows > 1 else 0.0
    return {
        "nats_per_token": total / num_tokens,
        "nats_per_token_standard_error": error / num_tokens,
        "perplexity": math.exp(min(total / num_tokens, 700.0)),
        "bits_per_byte": total / math.log(2) / num_bytes,
        "nats_per_row": total / rows,
        "nats_per_row_standard_error": error / rows,
        "prior_nats_per_row": float(bound.prior_nats.mean()),
        "length_nats_per_row": float(bound.length_nats.mean()),
        "reconstruction_nats_per_row": float(bound.reconstruction_nats.mean()),
        "rows": rows,
    }
