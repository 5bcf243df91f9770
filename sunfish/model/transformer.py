"""A transformer whose positions attend as a mask allows; it has never heard of noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts, noop_context_fn

from sunfish.model.attention_mask import AttentionMask

NORM_EPS = 1e-6  # written out: the exported graph must not depend on a dtype's default
MASKED = -1e9  # a score so low that its weight is 0; not infinite, which some programs make NaN of

ATEN = torch.ops.aten
PRODUCTS = [ATEN.mm.default, ATEN.addmm.default, ATEN.bmm.default]
PRODUCTS += [getattr(ATEN, f"_scaled_dot_product_{name}_attention").default for name in ("flash", "cudnn")]

Hidden = Float[Tensor, "batch pos width"]
Heads = Float[Tensor, "batch head pos dim"]


def norm(x: Tensor) -> Tensor:
    """Shift and scale the last axis to mean 0 and variance 1."""
    return F.layer_norm(x, (x.shape[-1],), eps=NORM_EPS)


class Norm(nn.Module):
    """The same with a learned scale and shift."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.empty(width)), nn.Parameter(torch.empty(width))

    def forward(self, x: Hidden) -> Hidden:
        dtype = torch.promote_types(x.dtype, self.scale.dtype)  # shards travel in bf16; CPUs refuse to mix
        return F.layer_norm(x, self.scale.shape, self.scale.to(dtype), self.shift.to(dtype), NORM_EPS)


def rotary_angles(
    num_positions: int, head_dim: int, device: torch.device | None = None
) -> Float[Tensor, "pos half"]:
    """Return position x frequency in radians. Source: [RoFormer] eq. 15."""
    frequencies = torch.exp(torch.arange(0, head_dim, 2, device=device) * (-math.log(10_000.0) / head_dim))
    return torch.arange(num_positions, device=device)[:, None] * frequencies


def rotate(x: Float[Tensor, "*axes pos dim"], cos: Tensor, sin: Tensor) -> Float[Tensor, "*axes pos dim"]:
    """Turn each pair of (first, second half) by its position's angle; sin is negative for the first half."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


def attend(q: Heads, k: Heads, v: Heads, mask: AttentionMask) -> Heads:
    """Return softmax(q k^T / sqrt(dim)) v, each position over those that the mask allows."""
    learns = torch.is_grad_enabled() or q.dtype == torch.bfloat16
    # the fused kernel's backward pass takes longer on CPUs (in bf16 ten times), and its decomposition in an
    # exported graph has four times the nodes
    if (q.device.type == "cpu" and learns) or torch.compiler.is_exporting():
        scores = (q * q.shape[-1] ** -0.5) @ k.mT
        allowed = mask.dense(q.shape[-2], q.device)
        if allowed is not None:  # a sum, whose backward pass does nothing: half the time of filling in
            scores = scores + torch.where(allowed, 0.0, MASKED).to(scores.dtype)
        return scores.softmax(dim=-1) @ v
    if mask.allowed is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=mask.is_causal)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.dense(q.shape[-2], q.device))


class Attention(nn.Module):
    """Multi-head attention with normalised queries and keys."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Hidden, cos: Tensor, sin: Tensor, mask: AttentionMask) -> Hidden:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        turned = rotate(norm(qkv[:2]).to(qkv.dtype), cos.to(qkv.dtype), sin.to(qkv.dtype))
        return self.out(attend(turned[0], turned[1], qkv[2], mask).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two matrices with a GELU between them, four times as wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Hidden) -> Hidden:
        return self.down(F.gelu(self.up(x)))


class Neighbours(nn.Module):
    """Add to each channel its values at the positions beside it, by learned weights: a depthwise convolution.

    So attention need not look for what stands beside a word. A causal pass reads earlier positions only.
    Source: [Canon] (layers A and C), [Primer] section 4 (depthwise convolutions)."""

    def __init__(self, width: int, window: int) -> None:
        super().__init__()
        self.earlier, self.later = (nn.Parameter(torch.empty(window, 1, width)) for _ in range(2))

    def forward(self, x: Hidden, mask: AttentionMask) -> Hidden:
        window, length, total = len(self.earlier), x.shape[1], x
        padded = F.pad(x, (0, 0, window, window))
        for by, weight in self._by_offset(mask.is_causal):
            beside = padded[:, window - by : window - by + length]
            total = torch.addcmul(total, mask.hide(beside, by), weight.to(x.dtype))
        return total

    def _by_offset(self, is_causal: bool) -> Iterator[tuple[int, Tensor]]:
        """Yield how far before a position another stands, below 0 behind it, and the weights for it."""
        yield from enumerate(self.earlier, 1)
        if not is_causal:
            yield from ((-by, weight) for by, weight in enumerate(self.later, 1))

    def step(self, x: Hidden, earlier: list[Hidden]) -> Hidden:
        """Return the causal answer at one position; `earlier` are the inputs before it, the nearest first."""
        return x + sum(weight * before for weight, before in zip(self.earlier, earlier, strict=True))


class Block(nn.Module):
    """Pre-norm attention and MLP, each of what its norm and the neighbours give."""

    def __init__(self, width: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.near_attention, self.near_mlp = Neighbours(width, window), Neighbours(width, window)
        self.norm_attention, self.norm_mlp = Norm(width), Norm(width)
        self.attention = Attention(width, num_heads)
        self.mlp = MLP(width)
        self.activation_checkpointing = "none"  # a run's choice: what the backward pass computes again

    def forward(self, x: Hidden, cos: Tensor, sin: Tensor, mask: AttentionMask) -> Hidden:
        if self.activation_checkpointing == "none" or not torch.is_grad_enabled():
            return self._compute(x, cos, sin, mask)
        keep = _keep_products if self.activation_checkpointing == "selective" else noop_context_fn
        return checkpoint(_uncached, self._compute, x, cos, sin, mask, use_reentrant=False, context_fn=keep)

    def _compute(self, x: Hidden, cos: Tensor, sin: Tensor, mask: AttentionMask) -> Hidden:
        x = x + self.attention(self.near_attention(self.norm_attention(x), mask), cos, sin, mask)
        return x + self.mlp(self.near_mlp(self.norm_mlp(x), mask))


class Transformer(nn.Module):
    """A stack of blocks over positions."""

    def __init__(self, num_layers: int, width: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.head_dim = width // num_heads
        self.blocks = nn.ModuleList(Block(width, num_heads, window) for _ in range(num_layers))

    def forward(self, x: Hidden, mask: AttentionMask) -> Hidden:
        """Return the normalised output of the last block.

        Positions need no new start in each document of a row: rotary attention knows only how far apart two
        are."""
        angles = rotary_angles(x.shape[1], self.head_dim, x.device)
        cos, sin = torch.cat((angles, angles), dim=-1).cos(), torch.cat((-angles, angles), dim=-1).sin()
        for block in self.blocks:
            x = block(x, cos, sin, mask)
        return norm(x)


def _uncached(compute: Callable[..., Tensor], x: Tensor, *rest: Any) -> Tensor:
    """Compute without autocast's cache, with which the second pass would find other operations."""
    with torch.autocast(x.device.type, enabled=torch.is_autocast_enabled(x.device.type), cache_enabled=False):
        return compute(x, *rest)


def _keep_products() -> Any:
    """Keep matrix products and attention; compute again all that is cheap."""
    return create_selective_checkpoint_contexts(PRODUCTS)
