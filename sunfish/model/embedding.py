"""Token ids -> x_0, and back: logits -> expected embedding. Numbers -> their embedding."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sunfish.types import Embeddings, EmbeddingTable, Logits, TokenIds

NUM_FREQUENCIES = 32  # Fourier features of a number


class FourierEmbedding(nn.Module):
    """Embed a number: Fourier features of geometrically spaced periods, then an MLP of one hidden layer."""

    def __init__(self, periods: tuple[float, float], cond_dim: int, width: int) -> None:
        super().__init__()
        shortest, longest = map(math.log10, periods)
        spaced = torch.logspace(shortest, longest, NUM_FREQUENCIES, dtype=torch.float64)
        self.frequencies: Tensor
        self.register_buffer("frequencies", (2 * math.pi / spaced).float(), persistent=False)
        self.hidden = nn.Linear(2 * NUM_FREQUENCIES, cond_dim)
        self.out = nn.Linear(cond_dim, width)

    def forward(self, number: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes width"]:
        angles = number[..., None] * self.frequencies
        features = torch.cat((angles.cos(), angles.sin()), dim=-1)
        embedded: Tensor = self.out(F.silu(self.hidden(features)))
        return embedded


class Embedding(nn.Module):
    """A learned table whose rows have length sqrt(emb): unit variance, no collapse. Source: [CDCD] 3.2."""

    def __init__(self, vocab_size: int, emb_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, emb_dim))
        self._cached: Tensor | None = None

    def table(self) -> EmbeddingTable:
        """Return the normalised rows."""
        if self._cached is not None:
            return self._cached
        return F.normalize(self.weight, dim=-1) * self.weight.shape[-1] ** 0.5

    @contextmanager
    def cached_table(self) -> Iterator[None]:
        """Inside the block the rows, unless sharded, are normalised once for many calls."""
        self._cached = None if isinstance(self.weight, DTensor) else self.table().detach()
        try:
            yield
        finally:
            self._cached = None

    def forward(self, ids: TokenIds) -> Embeddings:
        return F.embedding(ids, self.table())


def expected_embedding(logits: Logits, table: EmbeddingTable) -> Embeddings:
    """Return sum_token p(token) e_token in the table's precision: `eps_mse` magnifies its rounding.

    Source: [CDCD] eq. 7 (score interpolation).
    """
    if torch.is_autocast_enabled(table.device.type):  # where it is off, no trace in an exported graph
        with torch.autocast(table.device.type, enabled=False):
            return expected_embedding(logits, table)
    return logits.to(table.dtype).softmax(dim=-1) @ table


def posterior_mean(evidence: Embeddings, bias: Tensor, table: EmbeddingTable) -> Embeddings:
    """Return E[e_token | x_t] of each position by itself, in the table's precision.

    log p(token | x_t) = evidence . e_token + log p(token) + const with evidence = (alpha / sigma^2) x_t,
    because embeddings have equal length; `bias` is log p(token). Source: [CDCD] eq. 7 without context."""
    if torch.is_autocast_enabled(table.device.type):
        with torch.autocast(table.device.type, enabled=False):
            return posterior_mean(evidence, bias, table)
    return expected_embedding(F.linear(evidence.to(table.dtype), table, bias), table)
