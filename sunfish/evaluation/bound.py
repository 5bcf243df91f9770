"""The variational bound on held-out text, its error, and the loss by noise level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sunfish.diffusion.lengths import RowLengths
from sunfish.diffusion.objectives import cross_entropy, diffusion_nats
from sunfish.diffusion.process import add_noise
from sunfish.diffusion.schedule import Array, NoiseSchedule, alpha, draw_times, sigma
from sunfish.model.attention_mask import number_documents
from sunfish.model.denoiser import Denoiser
from sunfish.progress import track
from sunfish.sampling.solvers import Given
from sunfish.stagger import draw_places

NUM_LEVEL_BINS = 30
# of the levels a bound is measured at: what is rare and dear, at levels where a learned law seldom looks,
# weighs less
EVEN_SHARE = 0.5


@dataclass(frozen=True)
class Path:
    """In which order positions are denoised, and how many of them at once, each seeing what was written
    before.
    """

    order: str
    together: int | None  # None: all


AT_ONCE = Path("forward", None)


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
    logsnr: np.ndarray  # (decided,) the level of each position that was being decided, at any time
    ce: np.ndarray  # (decided,)


@torch.no_grad()
def variational_bound(
    denoiser: Denoiser,
    law: NoiseSchedule,
    lengths: RowLengths | None,
    batches: Sequence[Given],
    num_levels: int,
    rng: np.random.Generator,
    end_id: int | None = None,
    path: Path = AT_ONCE,
) -> Bound:
    """Return the bound of batches of ids, each (rows, pos) of one length, every row seen at `num_levels`
    times of its walk.

    Without levels it is the bound of a walk of a single step, from noise alone to a token
    (`sampler.Table.at_once`): its only latent variable is the noise, and its reconstruction all there is to
    say.

    What is known costs nothing: the bound is that of the unknown positions given the known ones.

    Along the `path` blocks of positions are denoised one after another, and a block's tokens are told once it
    is done, which costs its reconstruction: the latent variables are the noisy embeddings of each block and
    the tokens before it, so this is a bound whatever the path, as long as it does not depend on the text. All
    blocks of a row are asked about in one call, each beside the clean copy of what comes before it
    (`Denoiser.predict_blocks`). The integral over each position's logsnr is drawn half by the noise law and
    half evenly, and weighted by that density, so it is unbiased. The estimate conditions on the denoiser's
    own first one at the same x_t, which is a function of x_t: the bound stays valid. A row's length is drawn
    before its text, so it costs -log p(length); with `lengths` None it is given and costs nothing. With an
    end token, documents of a row do not see each other, and where they end is given, too."""
    view = _View(denoiser, law.evened(EVEN_SHARE), path, rng, end_id)
    terms = [_terms(view, given, num_levels) for given in track(batches, "bound", "batches", len(batches))]
    sizes = np.concatenate([np.full(len(given.ids), given.ids.shape[1]) for given in batches])
    length_nats = np.zeros(len(sizes)) if lengths is None else lengths.nats(sizes)
    diffusion, reconstruction, prior = (
        np.concatenate([getattr(t, k) for t in terms]) for k in ("diffusion", "reconstruction", "prior")
    )
    levels, ce = (np.concatenate([getattr(t, k) for t in terms]) for k in ("logsnr", "ce"))
    return Bound(diffusion, reconstruction, prior, length_nats, *_by_level(law, levels, ce))


@dataclass(frozen=True)
class _View:
    """All that the terms of any batch need."""

    denoiser: Denoiser
    law: NoiseSchedule
    path: Path
    rng: np.random.Generator
    end_id: int | None


def _terms(view: _View, given: Given, num_levels: int) -> _Terms:
    unknown, block = ~given.known, _Blocks.draw(view.path, given.known, view.rng)
    diffusion, logsnr, ce = np.zeros(len(given.ids)), [np.empty(0)], [np.empty(0)]
    for k in range(num_levels):
        walks = (draw_times(given.ids.size, view.rng).reshape(given.ids.shape) + k) / num_levels
        levels = view.law.logsnr_at(block.of_each(walks))
        per_logsnr, nats = _look(view, given, block, levels)
        diffusion += np.where(unknown, per_logsnr / view.law.density(levels), 0.0).sum(axis=1) / num_levels
        logsnr.append(levels[unknown])
        ce.append(nats[unknown])
    _, told = _look(
        view, given, block, np.full(given.ids.shape, view.law.logsnr_at(0.0 if num_levels else 1.0))
    )
    prior = prior_kl_nats(view.denoiser, view.law) * unknown.sum(axis=1)
    return _Terms(diffusion, (told * unknown).sum(axis=1), prior, np.concatenate(logsnr), np.concatenate(ce))


@dataclass(frozen=True, eq=False)
class _Blocks:
    """A path through some rows: each position's place, and its block, all (rows, pos)."""

    place: np.ndarray
    number: np.ndarray
    start: np.ndarray  # the place of its first position

    @classmethod
    def draw(cls, path: Path, known: np.ndarray, rng: np.random.Generator) -> _Blocks:
        place, size = draw_places(path.order, known, rng), path.together or known.shape[1]
        number = np.maximum(place - 1, 0) // size
        return cls(place, number, np.where(known, 1, number * size + 1))

    def of_each(self, values: Array) -> Array:
        """Return each position's block's value, of values for as many blocks as there are positions."""
        return np.take_along_axis(values, self.number, axis=1)


def _look(view: _View, given: Given, block: _Blocks, logsnr: Array) -> tuple[np.ndarray, np.ndarray]:
    """Return, of each position, the diffusion term per unit of logsnr and the cross-entropy, in nats, (rows,
    pos).
    """
    denoiser, device = view.denoiser, next(view.denoiser.parameters()).device
    arrays = given.ids, given.known, logsnr.astype(np.float32), block.place, block.start
    target, known, level, place, start = (torch.from_numpy(values).to(device) for values in arrays)
    x_0 = denoiser.embed(target)
    eps = torch.from_numpy(view.rng.standard_normal(x_0.shape, dtype=np.float32)).to(device)
    x_t = torch.where(known[..., None], x_0, add_noise(x_0, eps, level))
    told = x_0, x_t, level, known, place, start, number_documents(target, view.end_id)
    first = denoiser.predict_blocks(torch.zeros_like(x_t), *told).x_0_hat
    x_0_hat, logits = denoiser.predict_blocks(first, *told)
    return _numpy(diffusion_nats(x_0, x_0_hat, level)), _numpy(cross_entropy(logits, target))


def _numpy(values: Tensor) -> np.ndarray:
    return values.double().cpu().numpy()


def prior_kl_nats(denoiser: Denoiser, law: NoiseSchedule) -> float:
    """Return KL(q(x_1 | x_0) || N(0, 1)) per position; every embedding has mean square 1, so it is the same
    for all.
    """
    variance = float(sigma(law.logsnr[-1])) ** 2
    per_coordinate = 0.5 * (float(alpha(law.logsnr[-1])) ** 2 + variance - 1.0 - math.log(variance))
    return per_coordinate * denoiser.section.emb_dim


def _by_level(
    law: NoiseSchedule, levels: np.ndarray, ce: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    edges = np.linspace(law.logsnr[-1], law.logsnr[0], NUM_LEVEL_BINS + 1)
    bins = np.clip(np.searchsorted(edges, levels, side="right") - 1, 0, NUM_LEVEL_BINS - 1)
    count = np.bincount(bins, minlength=NUM_LEVEL_BINS)
    seen = count > 0
    mean = np.bincount(bins, weights=ce, minlength=NUM_LEVEL_BINS)[seen] / count[seen]
    centres = (0.5 * (edges[1:] + edges[:-1]))[seen]
    return centres, mean, law.density(centres)


def bound_metrics(bound: Bound, num_tokens: int, num_bytes: int) -> dict[str, float]:
    """Return nats per token, perplexity and bits per byte with their standard error.

    `num_tokens` counts what the rows say: text and one end token each, not the filling behind it; what the
    filling costs is in the sum all the same."""
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
