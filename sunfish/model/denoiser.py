"""The network: a bidirectional pass that denoises, and a causal pass that scores clean text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sunfish.config.schema.model import ModelConfig
from sunfish.model.attention_mask import AttentionMask, DocumentIds, document_mask
from sunfish.model.embedding import Embedding, FourierEmbedding, expected_embedding, posterior_mean
from sunfish.model.readout import Readout, padded_readout, token_nats
from sunfish.model.transformer import Transformer
from sunfish.types import Embeddings, Hidden, KnownMask, Logits, LogSnr, PerPosition, PerRow, TokenIds

LOGSNR_PERIODS = (0.5, 64.0)  # nats
POSITION_PERIODS = (2.0, 8192.0)  # positions


class Prediction(NamedTuple):
    """The expected clean embedding, and log p(token), unnormalised, in nats."""

    x_0_hat: Embeddings
    logits: Logits


class Denoiser(nn.Module):
    """Predict the clean tokens behind noisy embeddings: `denoiser(x_t, logsnr, x_0_prev, known) ->
    Prediction`.

    Every position attends to every other. The network gives logits; `x_0_hat` is the embedding that they
    expect. Known positions hold clean embeddings and keep them. With `length_conditioning` each position is
    told its distance to the row's end. With the output prior, logits start from log p(token | x_t) of each
    position by itself, (alpha / sigma^2) x_t . e_token + const (embeddings have equal length), so that the
    network learns only the context.

    The check is `next_token_logits`: the clean text, shifted by one position, under a causal mask.

    Source: [CDCD] section 3 (score interpolation), [Plaid] section 3.4 (output prior), [AnalogBits]
    (self-conditioning).
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config, self.vocab_size = config, vocab_size
        self.embedding = Embedding(vocab_size, config.emb_dim)
        self.noise_level = FourierEmbedding(LOGSNR_PERIODS, config.cond_dim, config.width)
        self.position = FourierEmbedding(POSITION_PERIODS, config.cond_dim, config.width)
        self.in_proj = nn.Linear(config.in_features, config.width, bias=False)
        self.known_embedding = nn.Parameter(torch.empty(config.width))
        self.causal_embedding = nn.Parameter(torch.empty(config.width))
        self.transformer = Transformer(config.num_layers, config.width, config.num_heads, config.conv_window)
        self.head = nn.Linear(config.width, config.emb_dim if config.tied_head else vocab_size, bias=False)
        self.head_bias = nn.Parameter(torch.empty(vocab_size))
        self.unigram_bias = nn.Parameter(torch.empty(vocab_size)) if config.input_posterior else None
        self._cached_readout: Readout | None = None

    def forward(
        self,
        x_t: Embeddings,
        logsnr: LogSnr,
        x_0_prev: Embeddings,
        known: KnownMask,
        temperature: PerRow | None = None,
        document: DocumentIds | None = None,
    ) -> Prediction:
        """Return the prediction. `x_0_prev` is an earlier estimate, zeros where there is none.

        `temperature` divides what the network makes of the context, not the output prior: the prior is
        evidence, and p(token | context)^(1/T) times the evidence is the posterior of the sharper language."""
        readout = self.readout()
        hidden, bias = self._hidden(x_t, logsnr, x_0_prev, known, document, temperature), readout.bias
        if temperature is not None:
            bias = bias / temperature[:, None, None]
        logits = F.linear(hidden, readout.weight) + bias
        x_0_hat = torch.where(known[..., None], x_t, expected_embedding(logits, readout.table))
        return Prediction(x_0_hat, logits[..., : self.vocab_size])

    def token_nats(
        self,
        x_t: Embeddings,
        logsnr: LogSnr,
        x_0_prev: Embeddings,
        known: KnownMask,
        ids: TokenIds,
        weight: PerPosition,
        document: DocumentIds | None = None,
    ) -> PerPosition:
        """Return -log p(ids), nats; the loss must be a number times sum(weight * nats)."""
        return self._nats(self._hidden(x_t, logsnr, x_0_prev, known, document), ids, weight)

    def next_token_logits(self, ids: TokenIds, document: DocumentIds | None = None) -> Logits:
        """Return log p(token | tokens before it) at every position, the first one included."""
        readout = self.readout()
        logits = F.linear(self._causal_hidden(ids, document), readout.weight) + readout.bias
        return logits[..., : self.vocab_size]

    def next_token_nats(
        self, ids: TokenIds, weight: PerPosition, document: DocumentIds | None = None
    ) -> PerPosition:
        """Return -log p(token | tokens before it), nats; `weight` as in `token_nats`."""
        return self._nats(self._causal_hidden(ids, document), ids, weight)

    def embed(self, ids: TokenIds) -> Embeddings:
        """Return x_0."""
        embeddings: Embeddings = self.embedding(ids)
        return embeddings

    def _hidden(
        self,
        x_t: Embeddings,
        logsnr: LogSnr,
        x_0_prev: Embeddings,
        known: KnownMask,
        document: DocumentIds | None = None,
        temperature: PerRow | None = None,
    ) -> Hidden:
        """Return what the readout reads: the trunk's answer, over T, and the prior's evidence."""
        is_known = known[..., None]
        x = torch.where(is_known, x_t, self._own_estimate(x_t, logsnr))
        levels = torch.where(is_known, self.known_embedding, self.noise_level(logsnr)[:, None])
        hidden = self._trunk(x, torch.where(is_known, 0.0, x_0_prev), levels, document_mask(document))
        hidden = hidden if temperature is None else hidden / temperature[:, None, None]
        if not self.config.output_prior:
            return self.head(hidden) if self.config.tied_head else hidden
        scale = torch.where(known, 0.0, posterior_logit_scale(logsnr)[:, None])  # known needs no evidence
        prior = scale[..., None] * x_t
        return self.head(hidden) + prior if self.config.tied_head else torch.cat((hidden, prior), dim=-1)

    def _causal_hidden(self, ids: TokenIds, document: DocumentIds | None) -> Hidden:
        """Return the same of a clean text: position i reads the tokens before i."""
        x = shift(self.embed(ids), 1)
        absent = torch.zeros_like(x)
        levels = self.known_embedding + self.causal_embedding
        hidden = self._trunk(x, absent, levels, document_mask(document, is_causal=True))
        if self.config.tied_head:
            return self.head(hidden)
        return torch.cat((hidden, absent), dim=-1) if self.config.output_prior else hidden

    def _own_estimate(self, x_t: Embeddings, logsnr: LogSnr) -> Embeddings:
        """Return what each position knows of x_0 from its own x_t: the posterior mean, or the best linear
        estimate, alpha x_t. Both fade with the noise."""
        if self.unigram_bias is None:
            return alpha(logsnr)[:, None, None] * x_t
        evidence = posterior_logit_scale(logsnr)[:, None, None] * x_t
        return posterior_mean(evidence, self.unigram_bias, self.embedding.table())

    def _trunk(self, x: Embeddings, x_0_prev: Embeddings, levels: Tensor, mask: AttentionMask) -> Hidden:
        """Return the transformer's answer to two embeddings a position and one of its noise level."""
        length = x.shape[1]
        index = torch.arange(length, device=levels.device)
        position = self.position((length - 1 - index if self.config.length_conditioning else index).float())
        inputs = self.in_proj(torch.cat((x, x_0_prev), dim=-1))
        hidden: Hidden = self.transformer(inputs + levels + position, mask)
        return hidden

    def _nats(self, hidden: Hidden, ids: TokenIds, weight: PerPosition) -> PerPosition:
        readout = self.readout()
        nats = token_nats(hidden.flatten(0, 1), readout.weight, readout.bias, ids.flatten(), weight.flatten())
        return nats.view(ids.shape)

    def readout(self) -> Readout:
        """Return how logits are read: by the embedding table, a head's own weights, or both side by side.

        Head and prior are one product, because two would write the logits twice and add them."""
        if self._cached_readout is not None:
            return self._cached_readout
        table = self.embedding.table()
        weight = table if self.config.tied_head else self.head.weight
        both = self.config.output_prior and not self.config.tied_head
        return Readout(torch.cat((weight, table), dim=-1) if both else weight, self.head_bias, table)

    @contextmanager
    def cached_readout(self) -> Iterator[None]:
        """Inside the block, table and readout are made once, for many calls with the same weights.

        With a vocabulary like GPT-2's that is hundreds of megabytes a call. A sharded readout is whole only
        inside a call, and is made in each."""
        with self.embedding.cached_table():
            if not isinstance(self.head.weight, DTensor):
                self._cached_readout = padded_readout(self.readout())
            try:
                yield
            finally:
                self._cached_readout = None


def shift(x: Tensor, by: int) -> Tensor:
    """Return x, (batch, pos, ...), moved `by` positions to the right, zeros moved in."""
    return F.pad(x, (0, 0, by, 0))[:, : x.shape[1]]


def posterior_logit_scale(logsnr: LogSnr) -> LogSnr:
    """Return alpha / sigma^2, the weight of x_t in the logits of its posterior."""
    return alpha(logsnr) * (1 + logsnr.exp())


def alpha(logsnr: LogSnr) -> LogSnr:
    """Return sqrt(sigmoid(logsnr)).

    ONNX Runtime's sigmoid errs by 1e-7 absolutely, a hundredth of alpha^2 where the noise is strongest; its
    exp does not."""
    if not torch.compiler.is_exporting():
        return logsnr.sigmoid().sqrt()
    snr = logsnr.exp()
    return (snr / (1 + snr)).sqrt()
