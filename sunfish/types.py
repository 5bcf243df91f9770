"""The shapes that tensors have, named once: `batch` rows of `pos` positions, `emb` numbers each."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

TokenIds = Int[Tensor, "batch pos"]
Embeddings = Float[Tensor, "batch pos emb"]
EmbeddingTable = Float[Tensor, "vocab emb"]
Logits = Float[Tensor, "batch pos vocab"]
KnownMask = Bool[Tensor, "batch pos"]  # True where a token is given or decided
LogSnr = Float[Tensor, " batch"]  # nats, one noise level per row
PerRow = Float[Tensor, " batch"]
PerPosition = Float[Tensor, "batch pos"]
Hidden = Float[Tensor, "batch pos width"]
