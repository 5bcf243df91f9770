"""Hidden states -> -log p(token), a piece of positions at a time where all logits would fill the memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sunfish.model.transformer import MASKED
from sunfish.types import EmbeddingTable

# logits at once: what a CPU's caches nearly hold, and what keeps a GPU busy
PIECE = {"cpu": 2**24, "cuda": 2**27}
ALIGNED = {"cuda": 64}  # a GPU's products take longer where an odd number of tokens lies side by side

Flat = Float[Tensor, " positions"]


class Readout(NamedTuple):
    """How logits are read, hidden @ weight.T + bias, and the embeddings of the same tokens."""

    weight: Float[Tensor, "vocab width"]
    bias: Float[Tensor, " vocab"]
    table: EmbeddingTable


def padded_readout(readout: Readout) -> Readout:
    """Return a readout in autocast's type and, on a GPU, with impossible tokens up to a round number."""
    weight, bias, table = (part.detach() for part in readout)
    device = weight.device.type
    weight = weight.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else weight
    missing = -len(bias) % ALIGNED.get(device, 1)
    if not missing:
        return Readout(weight, bias, table)
    rows = (0, 0, 0, missing)
    return Readout(F.pad(weight, rows), F.pad(bias, (0, missing), value=MASKED), F.pad(table, rows))


def token_nats(
    hidden: Float[Tensor, "positions width"],
    weight: Float[Tensor, "vocab width"],
    bias: Float[Tensor, " vocab"],
    ids: Int[Tensor, " positions"],
    share: Flat,
) -> Flat:
    """Return -log p(ids) in nats, logits being hidden @ weight.T + bias.

    With more than a piece of logits the gradient is computed on the way forward, from each piece while it is
    there: no logit is kept and none is computed twice. For that it must be known how much each position
    counts: the loss must be a number times sum(share * nats).

    Source: [Liger] section 3.2 (fused linear cross-entropy).
    """
    if len(ids) * len(weight) <= _most(hidden):
        return F.cross_entropy(F.linear(hidden, weight) + bias, ids, reduction="none")
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    nats: Tensor = _InPieces.apply(hidden, weight, bias, ids, share)
    return nats


def _most(hidden: Tensor) -> int:
    return PIECE.get(hidden.device.type, PIECE["cuda"])


class _InPieces(torch.autograd.Function):
    """nats and, with them, the gradient of sum(share * nats)."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, ids: Tensor, share: Tensor) -> Tensor:
        wanted, rows = any(ctx.needs_input_grad), max(1, _most(hidden) // len(weight))
        nats = torch.empty(len(ids), device=hidden.device)
        of_hidden, of_bias = torch.empty_like(hidden), torch.zeros_like(bias)
        of_weight = torch.zeros_like(weight, dtype=torch.float32)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(ids), rows):
                piece = slice(start, start + rows)
                logits = F.linear(hidden[piece], weight).float() + bias
                nats[piece] = F.cross_entropy(logits, ids[piece], reduction="none")
                if wanted:
                    slope = logits.softmax(dim=-1)
                    slope[torch.arange(len(slope), device=slope.device), ids[piece]] -= 1
                    slope *= share[piece, None]
                    of_bias += slope.sum(dim=0)
                    slope = slope.to(hidden.dtype)
                    of_hidden[piece] = slope @ weight
                    of_weight += slope.T @ hidden[piece]
        ctx.save_for_backward(of_hidden, of_weight.to(weight.dtype), of_bias, share)
        return nats

    @staticmethod
    def backward(ctx: Any, of_nats: Tensor) -> tuple[Tensor | None, ...]:
        of_hidden, of_weight, of_bias, share = ctx.saved_tensors
        times = of_nats.sum() / share.sum().clamp(min=torch.finfo(share.dtype).tiny)
        return of_hidden * times, of_weight * times, of_bias * times, None, None
