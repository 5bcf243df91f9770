"""One row of a sampler's table as one call: denoise, settle what is sure, move on. Torch runs it, and the exported graph is it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sunfish.model.embedding import Embeddings, Ids


class State(NamedTuple):
    """Texts in the making: noisy embeddings, the estimate before, the ids of what is known, and which positions are."""

    x: Embeddings
    x_0_prev: Embeddings
    ids: Ids
    known: Bool[Tensor, "batch pos"]


class Moved(NamedTuple):
    """A step's answer: the next state, flat, the text as it would be now, and how probable its likeliest tokens are."""

    x: Embeddings
    x_0_hat: Embeddings
    ids: Ids
    known: Bool[Tensor, "batch pos"]
    text: Ids
    probability: Float[Tensor, "batch pos"]


class Step(nn.Module):
    """x_next = c_x * x + c_0 * x_0_hat + c_p * x_0_prev + c_n * noise, after what is known was set back to its clean embedding.

    `rows` holds a row of `sampler.Table.rows` for each position; `temperature`, (batch,), is the denoiser's. A position
    whose likeliest token is more probable than its row's `settle_above` becomes known.

    Source: [DDIM] eq. 12 for the row; [MaskGIT] section 3.2 for settling.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser: Any = denoiser  # and its `embed`

    def forward(
        self, x: Embeddings, x_0_prev: Embeddings, ids: Ids, known: Bool[Tensor, "batch pos"], noise: Embeddings,
        rows: Float[Tensor, "batch pos 6"], temperature: Float[Tensor, " batch"],
    ) -> Moved:  # fmt: skip
        logsnr, c_x, c_0, c_p, c_n, settle_above = rows.split(1, dim=-1)
        x = torch.where(known[..., None], self.denoiser.embed(ids), x)
        x_0_hat, logits = self.denoiser(x, logsnr.squeeze(-1), x_0_prev, known, temperature)
        probability, likeliest = logits.softmax(dim=-1).max(dim=-1)
        sure = (probability > settle_above.squeeze(-1)) & ~known
        ids, known = torch.where(sure, likeliest, ids), known | sure
        x_0_hat = torch.where(known[..., None], self.denoiser.embed(ids), x_0_hat)
        x = c_x * x + c_0 * x_0_hat + c_p * x_0_prev + c_n * noise
        return Moved(x, x_0_hat, ids, known, torch.where(known, ids, likeliest), probability)
