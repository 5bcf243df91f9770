"""From ids to the loss of one micro-batch, on one screen."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from sunfish.config.schema.diffusion import DiffusionConfig
from sunfish.diffusion.conditioning import StepRandomness
from sunfish.diffusion.objectives import OBJECTIVES
from sunfish.diffusion.process import add_noise
from sunfish.model.attention_mask import DocumentIds, document_ids
from sunfish.model.denoiser import Denoiser, Prediction
from sunfish.text.layouts import answer_weights
from sunfish.types import Embeddings, KnownMask, LogSnr, PerPosition, PerRow, TokenIds


class Loss(NamedTuple):
    """What is differentiated, and, detached, what is logged and what the noise schedule observes."""

    total: Tensor  # ()
    observed: PerPosition  # nats (ce, elbo) or a mean square (eps_mse, x0_mse); meaningless where known
    check_nats: PerRow  # mean next-token cross-entropy of each row; zeros where the check is not learned
    known: KnownMask


class DiffusionLoss(nn.Module):
    """All of a step that is differentiated, in one module that can be wrapped and sharded.

    With `separator_id` the documents of a row do not attend to each other. With `task_end_id` rows are tasks:
    instructions are known and have no loss, and each answer counts alike."""

    def __init__(
        self,
        denoiser: Denoiser,
        config: DiffusionConfig,
        separator_id: int | None = None,
        task_end_id: int | None = None,
    ) -> None:
        super().__init__()
        self.denoiser, self.config = denoiser, config
        self.separator_id, self.task_end_id = separator_id, task_end_id

    def forward(
        self, ids: np.ndarray, randomness: StepRandomness, logsnr: np.ndarray, density: np.ndarray
    ) -> Loss:
        """Return the loss of `ids`, (rows, pos), at the noise levels `logsnr`, (rows,), drawn with `density`,
        (rows,).
        """
        denoiser, objective = self.denoiser, OBJECTIVES[self.config.objective]
        device = next(denoiser.parameters()).device
        target = torch.from_numpy(ids).to(device)
        count = torch.from_numpy(self._weights(ids)).to(device)
        known = torch.from_numpy(randomness.known).to(device) | (count == 0)
        level, drawn_with = (torch.from_numpy(values).float().to(device) for values in (logsnr, density))
        document = document_ids(target, self.separator_id)

        x_0 = denoiser.embed(target)
        eps = draw_noise(randomness, x_0)
        x_t = torch.where(known[..., None], x_0, add_noise(x_0, eps, level))
        x_0_prev = torch.zeros_like(x_t)
        if self.config.self_conditioning:
            rows = randomness.self_conditioned
            x_0_prev = self_conditioning_estimate(denoiser, x_t, level, known, document, rows)
        batch = NoisyBatch(
            denoiser, target, x_0, x_t, eps, level, drawn_with, known, x_0_prev, document, count
        )
        each = objective.loss(batch)
        total = (each * ~known * count).mean()
        observed = batch.token_nats() if objective.trains_embeddings else each

        check = torch.zeros_like(observed)
        if self.config.check_weight:
            check = denoiser.next_token_nats(target, count / target.numel(), document) * count
            total = total + self.config.check_weight * check.mean()
        return Loss(total, observed.detach(), check.detach().mean(dim=1), known)

    def _weights(self, ids: np.ndarray) -> np.ndarray:
        if self.task_end_id is None:
            return np.ones(ids.shape, np.float32)
        return answer_weights(ids, self.task_end_id)


@dataclass(frozen=True, eq=False)
class NoisyBatch:
    """A `diffusion.objectives.DenoisedBatch`: the denoiser is called as an objective asks."""

    denoiser: Denoiser
    ids: TokenIds
    x_0: Embeddings
    x_t: Embeddings
    eps: Embeddings
    logsnr: LogSnr
    density: PerRow
    known: KnownMask
    x_0_prev: Embeddings
    document: DocumentIds | None
    count: PerPosition  # how much each position counts

    @cached_property
    def prediction(self) -> Prediction:
        """The denoiser's answer, with all logits in memory."""
        return self.denoiser(self.x_t, self.logsnr, self.x_0_prev, self.known, None, self.document)

    @property
    def x_0_hat(self) -> Embeddings:
        """The estimate of x_0."""
        return self.prediction.x_0_hat

    def token_nats(self) -> PerPosition:
        """Return -log p(token), nats; without all logits in memory if nothing else was asked of the
        denoiser.
        """
        if "nats" not in self.__dict__:
            self.__dict__["nats"] = self._nats()
        return self.__dict__["nats"]

    def _nats(self) -> PerPosition:
        if "prediction" in self.__dict__:
            logits = self.prediction.logits
            return F.cross_entropy(logits.flatten(0, 1), self.ids.flatten(), reduction="none").view(
                self.ids.shape
            )
        weight = ~self.known * self.count / self.known.numel()
        return self.denoiser.token_nats(
            self.x_t, self.logsnr, self.x_0_prev, self.known, self.ids, weight, self.document
        )


def draw_noise(randomness: StepRandomness, x_0: Embeddings) -> Embeddings:
    """Return eps: these rows' part of the whole batch's noise, which is the same however the batch is shared
    out.
    """
    generator = torch.Generator(x_0.device).manual_seed(randomness.noise_seed)
    everything = torch.randn((randomness.batch_rows, *x_0.shape[1:]), generator=generator, device=x_0.device)
    return everything[randomness.first_row : randomness.first_row + len(x_0)]


@torch.no_grad()
def self_conditioning_estimate(
    denoiser: Denoiser,
    x_t: Embeddings,
    logsnr: LogSnr,
    known: KnownMask,
    document: DocumentIds | None,
    rows: np.ndarray,
) -> Embeddings:
    """Return x_0_prev: the denoiser's own estimate where `rows`, bool (rows,), says so, zeros elsewhere.

    Source: [AnalogBits] section 3.1.
    """
    x_0_prev, is_sharded = torch.zeros_like(x_t), isinstance(denoiser, FSDPModule)
    if not (rows.any() or is_sharded):
        return x_0_prev
    chosen = torch.from_numpy(np.flatnonzero(rows) if rows.any() else np.zeros(1, np.int64)).to(x_t.device)
    theirs = None if document is None else document[chosen]
    args = x_t[chosen], logsnr[chosen], x_0_prev[chosen], known[chosen], None, theirs
    estimate = denoiser(*args).x_0_hat  # of shards every process takes part, as often as the others
    if rows.any():
        x_0_prev[chosen] = estimate.to(x_0_prev.dtype)
    return x_0_prev
