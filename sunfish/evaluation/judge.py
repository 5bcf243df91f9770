"""A language model that says how probable it finds a text: generative perplexity, and MAUVE over its
features.

`evaluate.judge` names it: none, the autoregressive baseline of `pipelines/baselines`, or a causal model of
the Hugging Face Hub. Perplexities compare only under the same judge and at similar entropy; they count its
tokens."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sunfish.documents import reason_of
from sunfish.errors import UserError
from sunfish.evaluation.mauve import FEWEST, mauve
from sunfish.model.baseline import StoredBaseline, is_baseline, read_baseline
from sunfish.text.hub import go_offline_if_unreachable
from sunfish.text.shards import Shards
from sunfish.types import Hidden, Logits, TokenIds

MAUVE_SEEDS = 5  # of the clusters; mean and deviation are reported
MAX_LOGITS = 2**25  # per batch
PAD_MULTIPLE = 16  # lengths that a Hub model's texts are padded to, so that batches are of one length
OFFLINE = (
    "without a network it can be null, the folder of an autoregressive baseline (`dvc repro "
    "pipelines/baselines/dvc.yaml` makes models/baselines/autoregressive), or a folder with a causal model "
    "and its tokenizer as transformers saves them"
)

Rows = Sequence[Sequence[int]]


class Judged(NamedTuple):
    """exp of the mean -log p of all tokens, the mean of each text's, (texts,) in nats, and the judge's last
    state in each text, (texts, width)."""

    perplexity: float
    nats: np.ndarray
    features: np.ndarray


class Encoded(NamedTuple):
    """A text as the judge reads it: its tokens and padding behind them, and how many tokens count."""

    tokens: list[int]
    size: int


@dataclass(frozen=True)
class Judge:
    """A causal language model.

    `encode` turns texts (ids up to their end, and words) into its own tokens. `model` turns those, (batch,
    pos), into states, (batch, pos, width), and logits, (batch, pos, vocab): those at i predict token i."""

    encode: Callable[[Rows, Sequence[str]], list[Encoded]]
    model: Callable[[TokenIds], tuple[Hidden, Logits]]
    vocab_size: int
    device: torch.device

    @torch.no_grad()
    def read(self, ids: Rows, words: Sequence[str]) -> Judged:
        """Return what it makes of texts, all of their tokens together."""
        texts = self.encode(ids, words)
        nats, features = np.zeros(len(texts)), [np.empty(0)] * len(texts)
        for batch in self._batches(texts):
            tokens = torch.tensor([texts[index].tokens for index in batch], device=self.device)
            ends = torch.tensor([texts[index].size for index in batch], device=self.device)
            states, logits = self.model(tokens)
            nats[batch] = _nats(logits, tokens, ends).cpu().numpy()
            last = states[torch.arange(len(batch), device=self.device), (ends - 1).clamp(min=0)]
            for index, state in zip(batch, last.double().cpu().numpy(), strict=True):
                features[index] = state
        sizes = np.array([text.size for text in texts])
        mean = nats.sum() / max(1, sizes.sum())
        return Judged(math.exp(min(mean, 700.0)), nats / np.maximum(1, sizes), np.stack(features))

    def _batches(self, texts: list[Encoded]) -> Iterator[list[int]]:
        """Yield the numbers of texts of one length, as many at once as their logits have room."""
        batch: list[int] = []
        for index in sorted(range(len(texts)), key=lambda index: len(texts[index].tokens)):
            length = len(texts[index].tokens)
            unlike = batch and len(texts[batch[0]].tokens) != length
            if batch and (unlike or (len(batch) + 1) * length * self.vocab_size > MAX_LOGITS):
                yield batch
                batch = []
            batch.append(index)
        yield batch


def _nats(logits: Logits, tokens: TokenIds, sizes: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Return each row's sum of -log p over its first `sizes` tokens."""
    each = F.cross_entropy(logits.float().mT, tokens, reduction="none")
    counts = torch.arange(tokens.shape[1], device=tokens.device) < sizes[:, None]
    return (each.double() * counts).sum(dim=1)


class ReferenceJudge(NamedTuple):
    """A judge, and what it makes of the real texts that others are held against."""

    judge: Judge
    real: Judged


def read_judge(name: str, shards: Shards, device: torch.device) -> Judge:
    """Read the judge that `evaluate.judge` names, for texts of these shards' tokens.

    Raises:
        UserError: there is none by this name, it is not autoregressive, or it reads other tokens.
    """
    if not is_baseline(Path(name)):
        return hub_judge(name, device)
    stored = read_baseline(Path(name))
    if stored.baseline.kind != "autoregressive":
        says = f"is the {stored.baseline.kind} baseline, which gives no text's likelihood"
        raise UserError(f"evaluate.judge = '{name}': {says}; name the autoregressive one")
    if stored.tokenizer_sha256 != shards.manifest["tokenizer_sha256"]:
        says = "was trained with another tokenizer than these shards"
        advice = "`dvc --cd pipelines/baselines repro` trains it on them"
        raise UserError(f"evaluate.judge = '{name}': {says}; {advice}")
    return baseline_judge(stored, shards.end_id, device)


def baseline_judge(stored: StoredBaseline, end_id: int, device: torch.device) -> Judge:
    """Return the autoregressive baseline as a judge.

    It reads a text in the shortest row that holds it, since it may be told how far the row's end is. The
    tokens that count are the text's own and one end token, unless the text fills its row."""
    baseline, lengths = stored.baseline.to(device), stored.lengths

    def encode(ids: Rows, _: Sequence[str]) -> list[Encoded]:
        return [_in_row(list(row), end_id, lengths.shortest_for(len(row) + 1)) for row in ids]

    def model(tokens: TokenIds) -> tuple[Hidden, Logits]:
        states = baseline.hidden(tokens)
        return states, baseline.logits(states)

    return Judge(encode, model, baseline.vocab_size, device)


def _in_row(ids: list[int], end_id: int, length: int) -> Encoded:
    padded = ids + [end_id] * max(1, length - len(ids))
    return Encoded(padded[:length], min(len(ids) + 1, length))


def hub_judge(name: str, device: torch.device) -> Judge:
    """Return a causal model of transformers as a judge; it reads as much of a text as it has positions for.

    Raises:
        UserError: it cannot be had, or it has no token to begin a text with.
    """
    tokenizer, causal = _load_causal(name)
    causal = causal.to(device).eval()
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if first is None:
        says = "its tokenizer has neither a first nor a last token"
        raise UserError(f"evaluate.judge = '{name}': {says}; take another model, such as gpt2-large")
    longest = getattr(causal.config, "max_position_embeddings", 2**20) - 1

    def encode(_: Rows, words: Sequence[str]) -> list[Encoded]:
        texts = [tokenizer(text, add_special_tokens=False)["input_ids"][:longest] for text in words]
        lengths = [min(longest, -(-max(1, len(text)) // PAD_MULTIPLE) * PAD_MULTIPLE) for text in texts]
        padded = (text + [first] * (n - len(text)) for text, n in zip(texts, lengths, strict=True))
        return [Encoded(row, len(text)) for row, text in zip(padded, texts, strict=True)]

    def model(tokens: TokenIds) -> tuple[Hidden, Logits]:
        answer = causal(F.pad(tokens, (1, 0), value=first), output_hidden_states=True)
        return answer.hidden_states[-1][:, 1:], answer.logits[:, :-1]  # the state that has read token i

    return Judge(encode, model, causal.config.vocab_size, device)


def _load_causal(name: str) -> tuple[Any, Any]:
    go_offline_if_unreachable()
    import transformers  # seconds, that only those pay who name such a judge

    # given again: its libraries may have been loaded before
    where: dict[str, Any] = {"pretrained_model_name_or_path": name}
    where |= {"local_files_only": os.environ.get("HF_HUB_OFFLINE") == "1"}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
        return tokenizer, transformers.AutoModelForCausalLM.from_pretrained(**where, use_safetensors=True)
    except (OSError, ValueError, KeyError) as error:
        says = f"no such model here or on the Hugging Face Hub ({reason_of(error)})"
        raise UserError(f"evaluate.judge = '{name}': {says}; {OFFLINE}") from error


def require_enough(num_samples: int, num_held_out: int) -> None:
    """Refuse fewer texts than MAUVE can tell apart, before anything is written.

    Raises:
        UserError: fewer than 50 samples, or than twice that held out.
    """
    because = "with a judge MAUVE is measured, which needs"
    if num_samples < FEWEST:
        advice = "set it higher, or evaluate.judge to null"
        raise UserError(f"evaluate.num_samples = {num_samples}: {because} {FEWEST} texts; {advice}")
    if num_held_out < 2 * FEWEST:
        says = f"the shards hold out {num_held_out} rows: {because} {2 * FEWEST}"
        advice = "use more documents or a larger data.held_out_share, or set evaluate.judge to null"
        raise UserError(f"{says}; {advice}")


def measure_mauve(ours: Judged, theirs: Judged) -> dict[str, float]:
    """Return MAUVE over several seeds of the clusters: mean and standard deviation."""
    values = [mauve(ours.features, theirs.features, seed) for seed in range(MAUVE_SEEDS)]
    return {"mauve": float(np.mean(values)), "mauve_deviation": float(np.std(values, ddof=1))}
