"""Token ids -> x_0, and back: logits -> expected embedding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sunfish.types import Embeddings, EmbeddingTable, Logits, TokenIds


class Embedding(nn.Module):
    """A learned table whose rows have length sqrt(emb) by construction: unit variance per coordinate, no
    collapse.

    Source: [CDCD] section 3.2.
    """

    def __init__(self, vocab_size: int, emb_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, emb_dim))
        self._cached: Tensor | None = None

    def table(self) -> EmbeddingTable:
        """Return the normalised rows."""
        return (
            F.normalize(self.weight, dim=-1) * self.weight.shape[-1] ** 0.5
            if self._cached is None
            else self._cached
        )

    @contextmanager
    def cached_table(self) -> Iterator[None]:
        """Inside the block the rows are normalised once, for many calls between which the weights do not
        change.

        A sharded table is whole only inside a call: it is normalised in each.
        """
        self._cached = None if isinstance(self.weight, DTensor) else self.table().detach()
        try:
            yield
        finally:
            self._cached = None

    def forward(self, ids: TokenIds) -> Embeddings:
        return F.embedding(ids, self.table())


def expected_embedding(logits: Logits, table: EmbeddingTable) -> Embeddings:
    """Return sum_token p(token) e_token, in the table's precision whatever the logits came in: `eps_mse`
    magnifies its rounding.

    Source: [CDCD] eq. 7 (score interpolation).
    """
    with _full_precision(table.device.type):
        return logits.to(table.dtype).softmax(dim=-1) @ table


def _full_precision(device_type: str) -> AbstractContextManager[object]:
    """Suspend autocast where it is on; where it is off, leave no trace in an exported graph."""
    return (
        torch.autocast(device_type, enabled=False)
        if torch.is_autocast_enabled(device_type)
        else nullcontext()
    )
