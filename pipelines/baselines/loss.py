"""What the baselines minimise, and how likely they find a text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from sunfish.config.schema.diffusion import KnownConfig
from sunfish.diffusion.conditioning import StepRandomness
from sunfish.diffusion.schedule import draw_times
from sunfish.model.attention_mask import document_ids
from sunfish.model.baseline import Baseline
from sunfish.types import KnownMask, PerRow, TokenIds

Weights = Callable[[np.ndarray], np.ndarray]  # ids -> how much each position counts, (rows, pos)
MIN_TIME = 1e-3  # of a training row: its loss is weighted by 1 / t. Source: MDLM's `sampling_eps`


class BaselineLoss(nn.Module):
    """The loss of one micro-batch, nats per token, in one module that can be wrapped.

    `autoregressive`: the next-token cross-entropy. `masked`: MDLM's bound with alpha_t = 1 - t, and the
    next-token cross-entropy of the causal pass, weighted as the denoiser's check is.

    Source: [MDLM] eq. 8. Its rules hold by construction: a mask has no logit, and visible tokens no loss.
    """

    def __init__(
        self, baseline: Baseline, check_weight: float, separator_id: int | None = None,
        weights: Weights = np.ones_like,
    ) -> None:  # fmt: skip
        super().__init__()
        self.baseline, self.check_weight = baseline, check_weight
        self.weights = weights  # 0 where tokens are read and need not be predicted
        self.separator_id = separator_id  # with one, the documents of a row do not attend to each other

    def forward(self, ids: np.ndarray, randomness: StepRandomness) -> Tensor:
        """Return the loss of `ids`, (rows, pos)."""
        baseline = self.baseline
        target = torch.from_numpy(ids).to(baseline.head_bias.device)
        document = document_ids(target, self.separator_id)
        even = torch.from_numpy(self.weights(ids) / ids.size).float().to(target.device)
        if baseline.kind == "autoregressive":
            return (baseline.nats(baseline.hidden(target, document), target, even) * even).sum()
        times = np.maximum(randomness.times, MIN_TIME)
        masked = torch.from_numpy(draw_masked(randomness, times, ids.shape[1])).to(target.device) & (even > 0)
        weight = masked * even / torch.from_numpy(times).float().to(target.device)[:, None]
        states = baseline.hidden(torch.where(masked, baseline.mask_id, target), document)
        loss = (baseline.nats(states, target, weight) * weight).sum()
        if self.check_weight:
            check = baseline.nats(baseline.causal_hidden(target, document), target, even)
            loss = loss + self.check_weight * (check * even).sum()
        return loss


def draw_masked(randomness: StepRandomness, times: np.ndarray, length: int) -> np.ndarray:
    """Return which positions are masked, bool, (rows, pos): each unknown one with probability t.

    It is drawn for the whole batch, so that any number of processes draw the same.
    """
    rng = np.random.default_rng(randomness.noise_seed)
    first, rows = randomness.first_row, len(times)
    uniforms = rng.random((randomness.batch_rows, length))[first : first + rows]
    return (uniforms < times[:, None]) & ~randomness.known


def without_scattered(known: KnownConfig) -> KnownConfig:
    """Return the same prefixes and gaps, without scattered known positions: masking leaves such ones."""
    kept = known.prefix + known.suffix + known.span
    fraction = known.conditioned_fraction * kept / (kept + known.scattered)
    prefix = known.prefix if kept else 1.0
    return dataclasses.replace(known, conditioned_fraction=fraction, prefix=prefix, scattered=0.0)


@torch.no_grad()
def autoregressive_nats(baseline: Baseline, ids: TokenIds, separator_id: int | None = None) -> PerRow:
    """Return -log p of each row given its length, nats, by the causal pass of either kind."""
    states = baseline.causal_hidden(ids, document_ids(ids, separator_id))
    return baseline.nats(states, ids, torch.ones(ids.shape, device=ids.device)).sum(dim=1)


@torch.no_grad()
def masked_bound(
    baseline: Baseline,
    ids: TokenIds,
    num_times: int,
    rng: np.random.Generator,
    separator_id: int | None = None,
) -> PerRow:
    """Return an unbiased draw of MDLM's bound on -log p of each row given its length, nats.

    Every row is seen at `num_times` times, one in each of as many even slots. Source: [MDLM] eq. 8.
    """
    document, total = document_ids(ids, separator_id), torch.zeros(len(ids), device=ids.device)
    for slot in range(num_times):
        times = (slot + 1.0 - draw_times(len(ids), rng)) / num_times  # above 0
        masked = torch.from_numpy(rng.random(tuple(ids.shape)) < times[:, None]).to(ids.device)
        nats = _masked_nats(baseline, ids, masked, document)
        total += nats / torch.from_numpy(times).float().to(ids.device) / num_times
    return total


def _masked_nats(baseline: Baseline, ids: TokenIds, masked: KnownMask, document: TokenIds | None) -> PerRow:
    """Return the sum of -log p over each row's masked positions."""
    states = baseline.hidden(torch.where(masked, baseline.mask_id, ids), document)
    return (baseline.nats(states, ids, masked.float()) * masked).sum(dim=1)
