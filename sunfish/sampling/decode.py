"""Probabilities -> tokens."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sunfish.types import PerPosition, TokenIds


def draw_tokens(
    probabilities: Float[Tensor, "batch pos vocab"],
    uniforms: PerPosition,
    cutoff: Float[Tensor, "*shape"] | float = 0.0,
) -> TokenIds:
    """Return one token a position, drawn by inverting the running sum at `uniforms`, which lie in [0, 1).

    Tokens less probable than `cutoff` are never drawn, unless none is more probable. The sum is taken in
    pieces of about the square root of the vocabulary, first to find the piece and then inside it: one long
    running sum would take longer than the readout.

    Source: [Truncation] section 4.1 (epsilon sampling).
    """
    size = piece_size(probabilities.shape[-1])
    least = torch.minimum(
        probabilities.amax(dim=-1, keepdim=True), torch.as_tensor(cutoff, dtype=probabilities.dtype)
    )
    kept = torch.where(probabilities >= least, probabilities, 0.0)
    pieces = F.pad(kept, (0, -kept.shape[-1] % size)).unflatten(-1, (-1, size))
    reached = pieces.sum(dim=-1).cumsum(dim=-1)
    goal = uniforms[..., None] * reached[..., -1:]
    piece = (reached < goal).sum(dim=-1, keepdim=True)
    inside = pieces.gather(2, piece[..., None].expand(*piece.shape, size)).squeeze(2).cumsum(dim=-1)
    before = F.pad(reached, (1, 0)).gather(
        2, piece
    )  # by number: onnx's reference evaluator takes no negative axis here
    rest = torch.minimum(
        goal - before, inside[..., -1:]
    )  # the piece's sum in another order may fall short of it
    return piece.squeeze(-1) * size + (inside < rest).sum(dim=-1)


def surprise_cutoff(
    logits: Float[Tensor, "batch pos vocab"], epsilon: Float[Tensor, ""]
) -> Float[Tensor, "batch pos 1"]:
    """Return exp(-H) epsilon^(1 + s), the probability below which a token is rejected.

    H is the distribution's entropy, the surprise -log p of its own tokens on average; s is the standard
    deviation of that surprise. So where one token is all but certain, another needs little to be rejected;
    where many are likely, each may be rare. The likeliest token never is, and with epsilon = 0 none.

    Source: [Medusa] section 2.3.1 (typical acceptance), [Typical] section 4.
    """
    log_p = logits.log_softmax(dim=-1)
    p = log_p.exp()
    entropy = -(p * log_p).sum(dim=-1, keepdim=True)
    surplus = log_p + entropy
    deviation = (p * surplus * surplus).sum(dim=-1, keepdim=True).sqrt()
    return ((1 + deviation) * epsilon.log() - entropy).exp()


def piece_size(vocab_size: int) -> int:
    """Return how many tokens `draw_tokens` sums at once: the power of two nearest to the square root of them
    all.
    """
    return 2 ** round(math.log2(vocab_size) / 2)
