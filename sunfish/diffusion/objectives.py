"""What is minimised at each unknown position. An objective is one function and one entry of `OBJECTIVES`.

This file needs no torch to be imported, so that a configuration is checked in an instant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from sunfish.types import Embeddings, LogSnr, PerPosition, PerRow, TokenIds
else:
    Embeddings = LogSnr = PerPosition = PerRow = TokenIds = Any


class DenoisedBatch(Protocol):
    """What an objective may look at: the data, the noise, and the denoiser's estimate."""

    @property
    def ids(self) -> TokenIds: ...

    @property
    def x_0(self) -> Embeddings: ...

    @property
    def x_t(self) -> Embeddings: ...

    @property
    def eps(self) -> Embeddings: ...

    @property
    def logsnr(self) -> LogSnr: ...

    @property
    def density(self) -> PerRow:
        """Of the noise schedule where `logsnr` was drawn; 0 where it was not drawn from it."""

    @property
    def x_0_hat(self) -> Embeddings:
        """The estimate of x_0."""

    def token_nats(self) -> PerPosition:
        """Return -log p(token) in nats, without all logits in memory where they are many."""


@dataclass(frozen=True)
class Objective:
    """A loss per position, and whether the embeddings learn from it; a mean square error would collapse
    them.
    """

    loss: Callable[[DenoisedBatch], PerPosition]
    trains_embeddings: bool


def cross_entropy(batch: DenoisedBatch) -> PerPosition:
    """Return -log p(token), nats, at the drawn noise level; not a likelihood. Source: [CDCD] eq. 8."""
    return batch.token_nats()


def eps_mse(batch: DenoisedBatch) -> PerPosition:
    """Return ||eps - eps_hat||^2 per coordinate, the founding objective. Source: [DDPM] eq. 14."""
    from sunfish.diffusion.process import eps_from_x_0

    return (batch.eps - eps_from_x_0(batch.x_t, batch.x_0_hat, batch.logsnr)).square().mean(dim=-1)


def x0_mse(batch: DenoisedBatch) -> PerPosition:
    """Return ||x_0 - x_0_hat||^2 per coordinate. Source: [DiffusionLM] section 4.2."""
    return (batch.x_0 - batch.x_0_hat).square().mean(dim=-1)


def elbo(batch: DenoisedBatch) -> PerPosition:
    """Return the diffusion term of the variational bound, nats; its mean over noise levels is that term.

    Rows that were not drawn from the schedule (density 0) are no part of the bound and count 0.
    """
    drawn = batch.density > 0
    weight = drawn / batch.density.where(drawn, batch.density.new_ones(()))
    return diffusion_nats(batch.x_0, batch.x_0_hat, batch.logsnr) * weight[:, None]


def diffusion_nats(x_0: Embeddings, x_0_hat: Embeddings, logsnr: LogSnr) -> PerPosition:
    """Return 0.5 snr ||x_0 - x_0_hat||^2, the bound's diffusion term per nat of logsnr.

    Source: [VDM] eq. 17, with d snr = snr d logsnr.
    """
    return 0.5 * logsnr.exp()[:, None] * (x_0 - x_0_hat).square().sum(dim=-1)


OBJECTIVES = {
    "ce": Objective(cross_entropy, trains_embeddings=True),
    "elbo": Objective(elbo, trains_embeddings=True),
    "eps_mse": Objective(eps_mse, trains_embeddings=False),
    "x0_mse": Objective(x0_mse, trains_embeddings=False),
}
