"""Sample with the autoregressive baseline: one token a call, keys and values of earlier positions kept."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sunfish.model.baseline import Baseline
from sunfish.model.transformer import Attention, Block, Neighbours, norm, rotary_angles, rotate
from sunfish.sampling.decode import draw_tokens
from sunfish.sampling.loop import Conditioning, Sampled
from sunfish.types import Embeddings, Hidden, Logits


class CachedDecoder:
    """The baseline's causal pass, one position a call, for rows of one length."""

    def __init__(self, baseline: Baseline, num: int, length: int) -> None:
        self.baseline, self.position = baseline, 0
        transformer, device = baseline.transformer, baseline.head_bias.device
        heads = baseline.config.num_heads, length, transformer.head_dim
        self.blocks: list[Block] = list(transformer.blocks)  # type: ignore[arg-type]
        self.cache = torch.zeros(len(self.blocks), 2, num, *heads, device=device)  # keys and values
        angles = rotary_angles(length, transformer.head_dim, device)
        self.cos = torch.cat((angles, angles), dim=-1).cos()
        self.sin = torch.cat((-angles, angles), dim=-1).sin()
        self.distances = baseline.distances(length)
        self.last: Embeddings = torch.zeros(num, 1, baseline.config.emb_dim, device=device)
        nothing = [torch.zeros(num, 1, baseline.config.width, device=device)] * baseline.config.conv_window
        self.recent: dict[Neighbours, list[Hidden]] = {
            near: nothing for block in self.blocks for near in (block.near_attention, block.near_mlp)
        }

    def step(self) -> Logits:
        """Return the logits of the next position, (batch, 1, vocab)."""
        at = self.position
        x = self.baseline.project_in(self.last, self.distances[at : at + 1])
        for block, cache in zip(self.blocks, self.cache, strict=True):
            near = self._near(block.near_attention, block.norm_attention(x))
            x = x + self._attend(block.attention, near, cache)
            x = x + block.mlp(self._near(block.near_mlp, block.norm_mlp(x)))
        return self.baseline.logits(norm(x))

    def append(self, tokens: Tensor) -> None:
        """Take the tokens, (batch, 1), of the position that `step` predicted."""
        self.position += 1
        self.last = self.baseline.embed(tokens)

    def _near(self, neighbours: Neighbours, x: Hidden) -> Hidden:
        earlier = self.recent[neighbours]
        self.recent[neighbours] = [x, *earlier][: len(earlier)]
        return neighbours.step(x, earlier)

    def _attend(self, attention: Attention, x: Hidden, cache: Tensor) -> Hidden:
        at = self.position
        cos, sin = self.cos[at : at + 1], self.sin[at : at + 1]
        qkv = attention.qkv(x).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        rotated = rotate(norm(qkv[:2]), cos, sin)
        cache[0, :, :, at], cache[1, :, :, at] = rotated[1, :, :, 0], qkv[2, :, :, 0]
        keys, values = cache[0, :, :, : at + 1], cache[1, :, :, : at + 1]
        scores = (rotated[0] * rotated.shape[-1] ** -0.5) @ keys.mT
        return attention.out((scores.softmax(dim=-1) @ values).transpose(1, 2).flatten(2))


@torch.no_grad()
def sample_autoregressive(
    baseline: Baseline,
    conditioning: Conditioning,
    rng: np.random.Generator,
    end_id: int | None = None,
    temperature: float = 1.0,
    epsilon_cutoff: float = 0.0,
) -> Sampled:
    """Return rows of tokens, drawn from left to right; known positions keep theirs.

    Tokens less probable than `epsilon_cutoff` are never drawn. With `end_id` all behind the first end token
    is end tokens, and a text's calls are its tokens that are not known, its end token included.
    """
    device = baseline.head_bias.device
    num, length = conditioning.ids.shape
    given, known = (torch.from_numpy(part).to(device) for part in (conditioning.ids, conditioning.known))
    drawn = np.stack([each.random(length, dtype=np.float32) for each in rng.spawn(num)])
    uniforms = torch.from_numpy(drawn).to(device)
    ids = torch.full((num, length), 0 if end_id is None else end_id, device=device)
    going = torch.ones(num, 1, dtype=torch.bool, device=device)
    calls = torch.zeros(num, dtype=torch.long, device=device)
    with baseline.embedding.cached_table():
        decoder = CachedDecoder(baseline, num, length)
        for position in range(length):
            here = slice(position, position + 1)
            calls += (going & ~known[:, here]).squeeze(1)
            probabilities = (decoder.step() / temperature).softmax(dim=-1)
            tokens = draw_tokens(probabilities, uniforms[:, here], epsilon_cutoff)
            tokens = torch.where(known[:, here], given[:, here], tokens)
            ids[:, here] = torch.where(going, tokens, ids[:, here])
            going = going & (known[:, here] | (ids[:, here] != end_id)) if end_id is not None else going
            if not going.any():
                break
            decoder.append(ids[:, here])
    return Sampled(ids.cpu().numpy(), calls.cpu().numpy(), np.zeros(num, np.int64))
