"""The denoiser's twins: its own transformer, embeddings and kind of head, reading tokens instead of noisy
embeddings.

They are what it is held against (`benchmarks/twins` trains them), and the autoregressive one can judge its
texts (`evaluate.judge`)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sunfish.config.schema.model import ModelConfig
from sunfish.diffusion.lengths import RowLengths
from sunfish.errors import UserError
from sunfish.files import read_json, replacing, write_json
from sunfish.model.attention_mask import see_turns
from sunfish.model.denoiser import ROW_PERIODS, FourierEmbedding, init_weights
from sunfish.model.embedding import Embedding
from sunfish.model.transformer import Transformer

Kind = Literal["autoregressive", "masked"]


class Baseline(nn.Module):
    """ids, with `special` for a mask or the beginning -> logits, (batch, pos, vocab)."""

    def __init__(self, section: ModelConfig, vocab_size: int, kind: Kind) -> None:
        super().__init__()
        self.section, self.kind, self.special = section, kind, vocab_size
        self.embedding = Embedding(vocab_size + 1, section.emb_dim)
        self.inward = nn.Linear(section.emb_dim, section.width, bias=False)
        # the masked one is told the row's length, all its words being open at once, and where it stands:
        # masks are alike, angles relative
        self.to_end = (
            FourierEmbedding(ROW_PERIODS, section.cond_dim, section.width) if kind == "masked" else None
        )
        self.transformer = Transformer(section.num_layers, section.width, section.num_heads)
        self.head = nn.Linear(section.width, section.emb_dim if section.tied_head else vocab_size, bias=False)
        self.head_bias = nn.Parameter(torch.empty(vocab_size))

    def forward(self, ids: Tensor) -> Tensor:
        return self.logits(self.hidden(ids))

    def logits(self, hidden: Tensor) -> Tensor:
        """Return what the blocks' states, (batch, pos, width), say of the next token, or of the masked one,
        (batch, pos, vocab).
        """
        found: Tensor = self.head(hidden)
        return (
            F.linear(found, self.embedding.table()[: self.special]) if self.section.tied_head else found
        ) + self.head_bias

    def hidden(self, ids: Tensor) -> Tensor:
        """Return what the blocks make of a text, (batch, pos, width)."""
        table = self.embedding.table()
        sight = (
            see_turns(torch.arange(ids.shape[1], device=ids.device)[None])
            if self.kind == "autoregressive"
            else None
        )
        inward = self.inward(F.embedding(ids, table))
        if self.to_end is not None:
            inward = inward + self.to_end(torch.arange(ids.shape[1] - 1, -1, -1, device=ids.device).float())
        hidden: Tensor = self.transformer(inward, sight)
        return hidden


def make_baseline(section: ModelConfig, vocab_size: int, kind: Kind, seed: int) -> Baseline:
    """Return an untrained twin, its weights drawn as the denoiser's are."""
    twin = Baseline(section, vocab_size, kind)
    init_weights(twin, seed)  # type: ignore[arg-type]
    return twin


@dataclass(frozen=True)
class StoredBaseline:
    """A twin as it lies on disk: its averaged weights, the rows' lengths, and which tokenizer its ids are
    of.
    """

    twin: Baseline
    lengths: RowLengths
    tokenizer_sha256: str


def write_baseline(
    folder: Path, twin: Baseline, weights: dict[str, Tensor], lengths: RowLengths, tokenizer_sha256: str
) -> None:
    """Write a twin whole or not at all."""
    config = {
        "model": dataclasses.asdict(twin.section),
        "vocab_size": twin.special,
        "kind": twin.kind,
        "row_lengths": lengths.to_json(),
        "tokenizer_sha256": tokenizer_sha256,
    }
    with replacing(folder) as temporary:
        temporary.mkdir()
        save_file(
            {name: tensor.detach().contiguous() for name, tensor in weights.items()},
            temporary / "model.safetensors",
        )
        write_json(temporary / "config.json", config)


def is_baseline(folder: Path) -> bool:
    """Say whether `write_baseline` wrote this folder."""
    return (folder / "config.json").is_file() and "kind" in read_json(folder / "config.json")


def read_baseline(folder: Path) -> StoredBaseline:
    """Read what `write_baseline` wrote.

    Raises:
        UserError: a missing or unreadable file, or one that another version wrote.
    """
    config = read_json(folder / "config.json")
    try:
        twin = Baseline(ModelConfig(**config["model"]), config["vocab_size"], config["kind"])
        twin.load_state_dict(load_file(folder / "model.safetensors"))
        return StoredBaseline(
            twin.eval(), RowLengths.from_json(config["row_lengths"]), config["tokenizer_sha256"]
        )
    except (KeyError, TypeError, SafetensorError, FileNotFoundError, RuntimeError) as error:
        raise UserError(
            f"{folder}: is no twin that can be loaded ({error}); run `dvc repro pipelines/baselines/dvc.yaml` again"
        ) from error
