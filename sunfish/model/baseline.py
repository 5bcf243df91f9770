"""The comparators: the denoiser's transformer, embeddings and head over tokens, not noisy embeddings.

`autoregressive` predicts each token from those before it. `masked` is masked diffusion ([MDLM]): it predicts
the tokens behind masks. With a causal pass over the clean text it checks drafts as the denoiser does."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sunfish.config.schema.model import ModelConfig
from sunfish.diffusion.lengths import RowLengths
from sunfish.files import read_json, sha256
from sunfish.model.attention_mask import DocumentIds, document_mask
from sunfish.model.denoiser import POSITION_PERIODS, shift
from sunfish.model.embedding import Embedding, FourierEmbedding
from sunfish.model.initial import init_weights
from sunfish.model.pretrained import TOKENIZER_FILES, FolderConfig, load_weights, read_config
from sunfish.model.readout import token_nats
from sunfish.model.transformer import Transformer
from sunfish.types import Embeddings, Hidden, Logits, PerPosition, TokenIds

Kind = Literal["autoregressive", "masked"]

FORMAT = 1
FILES = ("config.json", "model.safetensors", *TOKENIZER_FILES)
REMEDY = "train it again (`dvc --cd pipelines/baselines repro`)"


class Baseline(nn.Module):
    """ids, (batch, pos) -> logits, (batch, pos, vocab).

    `autoregressive`: logits of position i are log p(token i | tokens before i), the first one included.
    `masked`: logits of position i are log p(token i | all tokens that are not `mask_id`). Its causal pass,
    `next_token_logits`, has the same weights and a learned flag, as the denoiser's.

    As in the denoiser, with `length_conditioning` positions are counted from the row's end."""

    def __init__(self, config: ModelConfig, vocab_size: int, kind: Kind) -> None:
        super().__init__()
        self.config, self.vocab_size, self.kind = config, vocab_size, kind
        is_masked = kind == "masked"
        self.embedding = Embedding(vocab_size + is_masked, config.emb_dim)
        self.in_proj = nn.Linear(config.emb_dim, config.width, bias=False)
        self.position = FourierEmbedding(POSITION_PERIODS, config.cond_dim, config.width)
        self.causal_embedding = nn.Parameter(torch.empty(config.width)) if is_masked else None
        self.transformer = Transformer(config.num_layers, config.width, config.num_heads, config.conv_window)
        self.head = nn.Linear(config.width, config.emb_dim if config.tied_head else vocab_size, bias=False)
        self.head_bias = nn.Parameter(torch.empty(vocab_size))

    @property
    def mask_id(self) -> int:
        """Return the id of a masked position; it has an embedding and no logit."""
        return self.vocab_size

    def forward(self, ids: TokenIds, document: DocumentIds | None = None) -> Logits:
        return self.logits(self.hidden(ids, document))

    def hidden(self, ids: TokenIds, document: DocumentIds | None = None) -> Hidden:
        """Return the last states, from which `logits` predicts the token at the same position."""
        if self.kind == "autoregressive":
            return self.causal_hidden(ids, document)
        return self._trunk(self.embed(ids), document, is_causal=False)

    def causal_hidden(self, ids: TokenIds, document: DocumentIds | None = None) -> Hidden:
        """Return the last states of the causal pass: position i reads the tokens before i."""
        return self._trunk(shift(self.embed(ids), 1), document, is_causal=True)

    def logits(self, hidden: Hidden) -> Logits:
        """Return log p(token), unnormalised, in nats."""
        return F.linear(self._projected(hidden), self.readout_weight()) + self.head_bias

    def next_token_logits(self, ids: TokenIds, document: DocumentIds | None = None) -> Logits:
        """Return log p(token | tokens before it) at every position, the first one included."""
        return self.logits(self.causal_hidden(ids, document))

    def nats(self, hidden: Hidden, ids: TokenIds, weight: PerPosition) -> PerPosition:
        """Return -log p(ids), nats; the loss must be a number times sum(weight * nats)."""
        states = self._projected(hidden).flatten(0, 1)
        nats = token_nats(states, self.readout_weight(), self.head_bias, ids.flatten(), weight.flatten())
        return nats.view(ids.shape)

    def embed(self, ids: TokenIds) -> Embeddings:
        """Return the embeddings of tokens and masks."""
        embeddings: Embeddings = self.embedding(ids)
        return embeddings

    def readout_weight(self) -> Tensor:
        """Return the matrix that logits are products with."""
        return self.embedding.table()[: self.vocab_size] if self.config.tied_head else self.head.weight

    def project_in(self, x: Embeddings, distance: Tensor) -> Hidden:
        """Return the transformer's input, of embeddings and of where they stand, (pos,)."""
        hidden: Hidden = self.in_proj(x) + self.position(distance.float())
        return hidden

    def distances(self, length: int) -> Tensor:
        """Return what the position embedding is given, (pos,): from the row's end if that is known."""
        index = torch.arange(length, device=self.head_bias.device)
        return length - 1 - index if self.config.length_conditioning else index

    def _trunk(self, x: Embeddings, document: DocumentIds | None, is_causal: bool) -> Hidden:
        projected = self.project_in(x, self.distances(x.shape[1]))
        if is_causal and self.causal_embedding is not None:
            projected = projected + self.causal_embedding
        hidden: Hidden = self.transformer(projected, document_mask(document, is_causal))
        return hidden

    def _projected(self, hidden: Hidden) -> Tensor:
        return self.head(hidden) if self.config.tied_head else hidden


def make_baseline(config: ModelConfig, vocab_size: int, kind: Kind, seed: int) -> Baseline:
    """Return an untrained baseline, its weights drawn as the denoiser's are."""
    baseline = Baseline(config, vocab_size, kind)
    init_weights(baseline, seed)
    return baseline


@dataclass(frozen=True)
class BaselineConfig(FolderConfig):
    """`config.json`."""

    kind: Kind


@dataclass(frozen=True)
class StoredBaseline:
    """What `read_baseline` returns: the model in evaluation mode and what belongs to it."""

    baseline: Baseline
    config: BaselineConfig
    folder: Path

    @property
    def lengths(self) -> RowLengths:
        """Return how long rows are."""
        return self.config.row_lengths

    @cached_property
    def tokenizer_sha256(self) -> str:
        """Return the digest of the tokenizer that its ids belong to."""
        return sha256(self.folder / "tokenizer.json")


def is_baseline(folder: Path) -> bool:
    """Say whether a folder holds a baseline."""
    path = folder / "config.json"
    values = read_json(path) if path.is_file() else None
    return isinstance(values, dict) and "kind" in values


def read_baseline(folder: Path) -> StoredBaseline:
    """Read a baseline's folder.

    Raises:
        UserError: a missing, altered or unreadable file, or one that another version wrote.
    """
    config = read_config(folder, BaselineConfig, FORMAT, FILES, REMEDY)
    baseline = Baseline(config.model, config.vocab_size, config.kind)
    baseline.load_state_dict(load_weights(folder, baseline.state_dict(), REMEDY))
    return StoredBaseline(baseline.eval(), config, folder)
