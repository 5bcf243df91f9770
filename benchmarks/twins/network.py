"""The twins' network: SunFish's own transformer, embeddings and tied head, reading tokens instead of noisy embeddings."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sunfish.files import read_json, replacing, write_json
from sunfish.lengths import RowLengths
from sunfish.model.denoiser import init_weights
from sunfish.model.embedding import Embedding
from sunfish.model.transformer import Attention, Neighbours, Transformer, norm, rotate
from sunfish.sections.model import Section

Kind = Literal["autoregressive", "masked"]


class CausalAttention(Attention):
    """Attention to what came before."""

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, together: None = None) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = rotate(norm(qkv[:2]).to(qkv.dtype), cos.to(qkv.dtype), sin.to(qkv.dtype))
        ahead = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        scores = ((q * q.shape[-1] ** -0.5) @ k.mT).masked_fill(ahead, float("-inf"))
        return self.out((scores.softmax(dim=-1) @ qkv[2]).transpose(1, 2).flatten(2))


class CausalNeighbours(Neighbours):
    """As many neighbours, all of them behind."""

    def forward(self, x: Tensor, sight: None = None) -> Tensor:
        length, padded = x.shape[1], F.pad(x, (0, 0, 2 * self.reach, 0))
        for offset, weight in enumerate(self.weight.to(x.dtype)):
            x = torch.addcmul(x, padded[:, offset : offset + length], weight)
        return x


class Twin(nn.Module):
    """ids, with `special` for a mask or the beginning -> logits, (batch, pos, vocab)."""

    def __init__(self, section: Section, vocab_size: int, kind: Kind) -> None:
        super().__init__()
        self.section, self.kind, self.special = section, kind, vocab_size
        self.embedding = Embedding(vocab_size + 1, section.emb_dim)
        self.inward = nn.Linear(section.emb_dim, section.width, bias=False)
        self.transformer = Transformer(section.num_layers, section.width, section.num_heads, section.neighbours)
        self.head = nn.Linear(section.width, section.emb_dim, bias=False)
        self.head_bias = nn.Parameter(torch.empty(vocab_size))
        for block in self.transformer.blocks if kind == "autoregressive" else ():
            block.attention = CausalAttention(section.width, section.num_heads)
            block.beside_attention, block.beside_mlp = (CausalNeighbours(section.width, section.neighbours) for _ in range(2))

    def forward(self, ids: Tensor) -> Tensor:
        table = self.embedding.table()
        hidden = self.transformer(self.inward(F.embedding(ids, table)))
        return F.linear(self.head(hidden), table[: self.special]) + self.head_bias


def make_twin(section: Section, vocab_size: int, kind: Kind, seed: int) -> Twin:
    """Return an untrained twin, its weights drawn as the denoiser's are."""
    twin = Twin(section, vocab_size, kind)
    init_weights(twin, seed)  # type: ignore[arg-type]
    return twin


def write_twin(folder: Path, twin: Twin, weights: dict[str, Tensor], lengths: RowLengths) -> None:
    """Write a twin whole or not at all."""
    config = {"model": dataclasses.asdict(twin.section), "vocab_size": twin.special, "kind": twin.kind, "row_lengths": lengths.to_json()}
    with replacing(folder) as temporary:
        temporary.mkdir()
        save_file({name: tensor.detach().contiguous() for name, tensor in weights.items()}, temporary / "model.safetensors")
        write_json(temporary / "config.json", config)


def read_twin(folder: Path) -> tuple[Twin, RowLengths]:
    """Read what `write_twin` wrote."""
    config = read_json(folder / "config.json")
    twin = Twin(Section(**config["model"]), config["vocab_size"], config["kind"])
    twin.load_state_dict(load_file(folder / "model.safetensors"))
    return twin.eval(), RowLengths.from_json(config["row_lengths"])
