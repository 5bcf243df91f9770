"""(x_t, logsnr, x_0_prev, known, turn) -> Prediction(x_0_hat, logits)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sunfish.model.embedding import Embedding, Embeddings, Ids, Logits, expected_embedding
from sunfish.model.readout import token_nats
from sunfish.model.attention_mask import Sight, follow_said, see_turns, show_copies
from sunfish.model.transformer import UNSEEN, Hidden, Transformer
from sunfish.config.schema.model import ModelConfig

NUM_FREQUENCIES = 32  # of the Fourier features of a number
LEVEL_PERIODS = (0.5, 64.0)  # nats of logsnr
ROW_PERIODS = (2.0, 8192.0)  # positions
ALIGNED = {"cuda": 64}  # a GPU's products take longer where an odd number of tokens lies side by side

Levels = Float[Tensor, "batch pos"]  # logsnr of each position
PerExample = Float[Tensor, " batch"]
Known = Bool[Tensor, "batch pos"]
Turns = Int[Tensor, "batch pos"]


class Prediction(NamedTuple):
    """What the denoiser says: the expected clean embedding and log p(token) at the asked temperature,
    unnormalised, in nats.
    """

    x_0_hat: Embeddings
    logits: Logits


class Readout(NamedTuple):
    """How logits are read from what was found, hidden @ weight.T + bias, and the embeddings of the same
    tokens.
    """

    weight: Float[Tensor, "vocab width"]
    bias: Float[Tensor, " vocab"]
    table: Float[Tensor, "vocab emb"]


class FourierEmbedding(nn.Module):
    """A number -> what a position is told of it: Fourier features, then one hidden layer."""

    def __init__(self, periods: tuple[float, float], cond_dim: int, width: int) -> None:
        super().__init__()
        even = torch.logspace(
            math.log10(periods[0]), math.log10(periods[1]), NUM_FREQUENCIES, dtype=torch.float64
        )
        self.frequencies: Tensor
        self.register_buffer("frequencies", (2 * math.pi / even).float(), persistent=False)
        self.hidden = nn.Linear(2 * NUM_FREQUENCIES, cond_dim)
        self.out = nn.Linear(cond_dim, width)

    def forward(self, number: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes width"]:
        angles = number[..., None] * self.frequencies
        features = torch.cat((angles.cos(), angles.sin()), dim=-1)
        hidden: Tensor = self.out(F.silu(self.hidden(features)))
        return hidden


class Denoiser(nn.Module):
    """Predict the clean tokens behind noisy embeddings.

    The network gives logits; `x_0_hat` is the embedding they expect. With the output prior, the logits start
    from the exact posterior of each position by itself, log p(token | x_t) = (alpha / sigma^2) x_t . e_token
    + const (rows of equal length), so that the network has only context to learn. Every position has a noise
    level of its own, and is told where in the row it stands: from its end, which tells how long the text must
    be, or from its beginning. Known positions hold clean embeddings and stay as they are; their logits say
    what comes next. If `told_before`, an open position is told the word before it, as far as that is known,
    as a model that writes from left to right is told it at every step. Where an `end_id` ends texts, sampling
    writes nothing behind it (`step.end_texts`).

    Source: [CDCD] section 3 (score interpolation), [Plaid] section 3.4 (output prior), [AnalogBits]
    (self-conditioning)."""

    def __init__(self, section: ModelConfig, vocab_size: int, end_id: int | None = None) -> None:
        super().__init__()
        self.section, self.vocab_size, self.end_id = section, vocab_size, end_id
        self.embedding = Embedding(vocab_size, section.emb_dim)
        self.noise_level = FourierEmbedding(LEVEL_PERIODS, section.cond_dim, section.width)
        self.position = FourierEmbedding(ROW_PERIODS, section.cond_dim, section.width)
        self.inward = nn.Linear(section.inward_dim, section.width, bias=False)
        self.known_flag = nn.Parameter(torch.empty(section.width))
        self.transformer = Transformer(section.num_layers, section.width, section.num_heads)
        self.head = nn.Linear(section.width, section.emb_dim if section.tied_head else vocab_size, bias=False)
        self.head_bias = nn.Parameter(torch.empty(vocab_size))
        self._held: Readout | None = None

    @property
    def told_before(self) -> bool:
        """Return whether an open position is told the word before it."""
        return self.section.told_before

    def forward(
        self, x_t: Embeddings, logsnr: Levels, x_0_prev: Embeddings, known: Known, turn: Turns | None,
        temperature: PerExample | None = None,
    ) -> Prediction:  # fmt: skip
        """Return the prediction for one copy of the rows: positions see the turns up to their own
        (`sight.see_turns`), or all.
        """
        return self.predict(
            x_t, logsnr, x_0_prev, known, None if turn is None else see_turns(turn), temperature
        )

    def predict(
        self,
        x_t: Embeddings,
        logsnr: Levels,
        x_0_prev: Embeddings,
        known: Known,
        sight: Sight | None,
        temperature: PerExample | None = None,
    ) -> Prediction:
        """Return the prediction for what sees by `sight`; by this name a wrapper for mixed precision leaves
        arguments in full precision.

        `temperature` divides what the network makes of the context, not the output prior: that is evidence,
        and p(token | context)^(1/T) times the evidence is the posterior of the sharper language."""
        readout, cold = self.readout(self.embedding.table()), _cold(temperature)
        return self._read(self._find(x_t, logsnr, x_0_prev, known, sight, cold), readout, x_t, known, cold)

    def predict_blocks(
        self, x_0_prev: Embeddings, x_0: Embeddings, x_t: Embeddings, logsnr: Levels, known: Known, place: Turns, start: Turns,
        document: Turns | None = None, temperature: PerExample | None = None, said: Known | None = None,
    ) -> Prediction:  # fmt: skip
        """Return the prediction for every position of `x_t`, each from the clean text before its block, all
        blocks in one call.

        `place` and `start` are those of `sight.see_copies`, `said` is `Sight`'s; it says what `forward` says
        of each block in its turn."""
        readout, cold = self.readout(self.embedding.table()), _cold(temperature)
        shown = show_copies(x_0, x_t, logsnr, known, place, start, document, said)
        told = shown.told(torch.cat((torch.zeros_like(x_0_prev), x_0_prev), dim=1))
        return self._read(self._find(*told, cold)[:, x_t.shape[1] :], readout, x_t, known, cold)

    def predict_nats(
        self,
        x_t: Embeddings,
        logsnr: Levels,
        x_0_prev: Embeddings,
        known: Known,
        sight: Sight,
        ids: Ids,
        share: Float[Tensor, "batch pos"],
    ) -> Float[Tensor, "batch pos"]:
        """Return -log p(ids) in nats, all that a cross-entropy needs; the loss must be a number times
        sum(share * nats).
        """
        readout, hidden = (
            self.readout(self.embedding.table()),
            self._find(x_t, logsnr, x_0_prev, known, sight),
        )
        return token_nats(
            hidden.flatten(0, 1), readout.weight, readout.bias, ids.flatten(), share.flatten()
        ).view(ids.shape)

    def _find(
        self, x_t: Embeddings, logsnr: Levels, x_0_prev: Embeddings, known: Known, sight: Sight | None,
        cold: Float[Tensor, "batch 1 1"] | None = None,
    ) -> Hidden:  # fmt: skip
        """Return what is read out at each position: what the network found, times `cold`, and the
        evidence.
        """
        copies = 1 if sight is None else sight.copies
        positions = self._positions(x_t.shape[1] // copies)
        positions = positions if copies == 1 else positions.repeat(copies, 1)
        hidden = self.transformer(self._inputs(x_t, logsnr, x_0_prev, known, sight) + positions, sight)
        hidden = hidden if cold is None else hidden * cold
        evidence = torch.where(known, 0.0, posterior_logit_scale(logsnr))[
            ..., None
        ]  # a given position needs none, and it would be huge
        prior = evidence * x_t if self.section.output_prior else None
        if self.section.tied_head:
            hidden = self.head(hidden)
            return hidden if prior is None else hidden + prior
        return hidden if prior is None else torch.cat((hidden, prior), dim=-1)

    def _read(
        self,
        hidden: Hidden,
        readout: Readout,
        x_t: Embeddings,
        known: Known,
        cold: Float[Tensor, "batch 1 1"] | None,
    ) -> Prediction:
        """Return what was found at each position as a prediction; known positions stay as they are."""
        logits = F.linear(hidden, readout.weight) + (readout.bias if cold is None else readout.bias * cold)
        x_0_hat = torch.where(known[..., None], x_t, expected_embedding(logits, readout.table))
        return Prediction(x_0_hat, logits if self._held is None else logits[..., : self.vocab_size])

    def readout(self, table: Float[Tensor, "vocab emb"]) -> Readout:
        """Return how logits are read: by the table, a head's weights, or both side by side.

        Head and prior are one product because two would write the logits twice and add them.
        """
        if self._held is not None:
            return self._held
        weight = table if self.section.tied_head else self.head.weight
        beside = self.section.output_prior and not self.section.tied_head
        return Readout(torch.cat((weight, table), dim=-1) if beside else weight, self.head_bias, table)

    def _before(self, linear: Embeddings, known: Known, sight: Sight | None) -> Embeddings:
        """Return what each open position is told of the word before it, (batch, pos, emb): the word, or what
        is known of it, or zeros.
        """
        copies = 1 if sight is None else sight.copies
        each = F.pad(linear.unflatten(1, (copies, -1))[:, :, :-1], (0, 0, 1, 0))
        said, in_the_making = follow_said(known, sight)
        words = torch.where(said[..., None], each[:, :1].expand_as(each).flatten(1, 2), 0.0)
        return torch.where(in_the_making[..., None], each.flatten(1, 2), words)

    def _inputs(
        self, x_t: Embeddings, logsnr: Levels, x_0_prev: Embeddings, known: Known, sight: Sight | None
    ) -> Hidden:
        """Return what the blocks read: the best linear estimate of x_0, alpha * x_t, the previous estimate,
        the word before, and the noise level or a flag.

        The estimate fades with the noise, so that a position which tells nothing looks like a gap and not
        like noise."""
        given = known[..., None]
        linear = torch.where(given, x_t, data_share(logsnr)[..., None] * x_t)
        before = (self._before(linear, known, sight),) if self.section.told_before else ()
        noisy = (linear, torch.where(given, 0.0, x_0_prev), *before)
        return self.inward(torch.cat(noisy, dim=-1)) + torch.where(
            given, self.known_flag, self.noise_level(logsnr)
        )

    def _positions(self, length: int) -> Float[Tensor, "pos width"]:
        """Return what each position of a row is told of where it stands."""
        number = torch.arange(length, device=self.known_flag.device)
        told: Tensor = self.position((length - 1 - number if self.section.told_length else number).float())
        return told

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside the block the table and the readout are made once, for many calls between which the weights
        do not change.

        With a vocabulary like GPT-2's that is hundreds of megabytes a call. The readout is held as products
        read it: in autocast's type, and on a GPU with tokens that do not exist, and are impossible, up to a
        round number."""
        with self.embedding.held():
            if not isinstance(self.head.weight, DTensor):  # a sharded one is whole only inside a call
                self._held = _ready(self.readout(self.embedding.table()))
            try:
                yield
            finally:
                self._held = None

    def embed(self, ids: Ids) -> Embeddings:
        """Return x_0, (batch, pos, emb)."""
        embeddings: Embeddings = self.embedding(ids)
        return embeddings


def _ready(readout: Readout) -> Readout:
    """Return a readout as products read it fastest on its device."""
    weight, bias, table = (part.detach() for part in readout)
    kind = weight.device.type
    weight = weight.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else weight
    missing = -len(bias) % ALIGNED.get(kind, 1)
    if not missing:
        return Readout(weight, bias, table)
    return Readout(
        F.pad(weight, (0, 0, 0, missing)),
        F.pad(bias, (0, missing), value=UNSEEN),
        F.pad(table, (0, 0, 0, missing)),
    )


def _cold(temperature: PerExample | None) -> Float[Tensor, "batch 1 1"] | None:
    return None if temperature is None else 1.0 / temperature[:, None, None]


def posterior_logit_scale(logsnr: Levels) -> Levels:
    """Return alpha / sigma^2 = sqrt(sigmoid(logsnr)) * (1 + exp(logsnr))."""
    return data_share(logsnr) * (1 + logsnr.exp())


def data_share(logsnr: Levels) -> Levels:
    """Return alpha = sqrt(sigmoid(logsnr)).

    ONNX Runtime's sigmoid errs by 1e-7 whatever it comes to, a hundredth of alpha^2 where the noise is
    strongest; its exp does not."""
    if not torch.compiler.is_exporting():
        return logsnr.sigmoid().sqrt()
    ratio = logsnr.exp()
    return (ratio / (1 + ratio)).sqrt()


def count_parameters(section: ModelConfig, vocab_size: int) -> int:
    """Return how many parameters a denoiser of this size has, without building it."""
    width, emb, cond = section.width, section.emb_dim, section.cond_dim
    block = 12 * width**2 + 4 * width  # attention 4, MLP 8; two norms
    told = (2 * NUM_FREQUENCIES + 1) * cond + (cond + 1) * width  # twice: the noise level, the position
    head = width * (emb if section.tied_head else vocab_size) + vocab_size
    around = vocab_size * emb + section.inward_dim * width + width + head  # table, inward, flag
    return section.num_layers * block + 2 * told + around


def init_weights(denoiser: Denoiser, seed: int) -> None:
    """Draw the initial weights from `seed`; everything that writes to the residual stream or the logits
    starts at zero.
    """
    generator = torch.Generator().manual_seed(seed)
    zeros = ("out.weight", "down.weight", "head.weight", "head_bias", "shift", "known_flag")
    with torch.no_grad():
        for name, parameter in denoiser.named_parameters():
            if name.endswith("bias") or (
                name.endswith(zeros) and not name.startswith(("noise_level", "position", "to_end"))
            ):
                parameter.zero_()
            elif name.endswith("scale"):
                parameter.fill_(1.0)
            else:
                std = 1.0 if name == "embedding.weight" else parameter.shape[-1] ** -0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
        inward, emb = denoiser.inward.weight, denoiser.section.emb_dim
        inward[:, emb : 2 * emb] = 0  # the estimate before, of which some trainings never tell
        inward[:, 2 * emb :] = inward[:, :emb].repeat(
            1, inward.shape[1] // emb // 3
        )  # the word before begins as if it were one's own
