"""A language model that says how likely it finds a text: generative perplexity, and MAUVE over what it has in
mind at a text's end.

Which one is `evaluate.judge`: none, the autoregressive twin of `benchmarks/twins`, or a causal model of the
Hugging Face Hub. A perplexity compares texts of like entropy only, and only by the same judge, whose own
tokens it counts."""

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
from torch import Tensor

from sunfish.errors import UserError
from sunfish.evaluation.mauve import FEWEST, mauve
from sunfish.model.baseline import StoredBaseline, is_baseline, read_baseline
from sunfish.text.hub import go_offline_if_unreachable
from sunfish.text.shards import Shards

MAUVE_SEEDS = 5  # of the clusters; the mean and the spread are told
LOGITS_TOGETHER = 2**25
OFFLINE = (
    "without a network it can be null, the folder of an autoregressive twin (`dvc repro pipelines/baselines/dvc.yaml` makes "
    "models/twins/autoregressive), or a folder with a causal model and its tokenizer as transformers saves them"
)

Rows = Sequence[Sequence[int]]


class Judged(NamedTuple):
    """What a judge makes of texts: exp of the mean -log p of all their tokens, and its last state in each,
    (texts, width).
    """

    perplexity: float
    features: np.ndarray


@dataclass(frozen=True)
class Judge:
    """A causal language model: `encode` turns texts (ids up to their end, and words) into its own tokens,
    before which `begin` stands;
    `model` turns those, (batch, pos), into its last states, (batch, pos, width), and logits, (batch, pos,
    vocab)."""

    encode: Callable[[Rows, Sequence[str]], Rows]
    model: Callable[[Tensor], tuple[Tensor, Tensor]]
    begin: int
    vocab_size: int
    device: torch.device

    @torch.no_grad()
    def read(self, ids: Rows, words: Sequence[str]) -> Judged:
        """Return what it makes of texts, all of their tokens together."""
        rows = self.encode(ids, words)
        nats, features = 0.0, [np.empty(0)] * len(rows)
        for batch in self._batches(rows):
            length = len(rows[batch[-1]])
            filled = [[self.begin, *rows[index], *[0] * (length - len(rows[index]))] for index in batch]
            told, sizes = (
                torch.tensor(filled, device=self.device),
                torch.tensor([len(rows[index]) for index in batch], device=self.device),
            )
            states, logits = self.model(told)
            each = F.cross_entropy(
                logits[:, :-1].float().flatten(0, 1), told[:, 1:].flatten(), reduction="none"
            ).view(len(batch), length)
            nats += float((each.double() * (torch.arange(length, device=self.device) < sizes[:, None])).sum())
            for index, state in zip(
                batch, states[torch.arange(len(batch)), sizes].double().cpu().numpy(), strict=True
            ):
                features[index] = state
        return Judged(math.exp(nats / max(1, sum(map(len, rows)))), np.stack(features))

    def _batches(self, rows: Rows) -> Iterator[list[int]]:
        """Yield the rows' numbers, short ones first, as many at once as their logits have room."""
        batch: list[int] = []
        for index in sorted(range(len(rows)), key=lambda index: len(rows[index])):
            if batch and (len(batch) + 1) * (len(rows[index]) + 1) * self.vocab_size > LOGITS_TOGETHER:
                yield batch
                batch = []
            batch.append(index)
        yield batch


class ReferenceJudge(NamedTuple):
    """A judge, and what it makes of the real texts that others are held against."""

    judge: Judge
    real: Judged


def read_judge(name: str, shards: Shards, device: torch.device) -> Judge:
    """Read the judge that `evaluate.judge` names, of texts of these shards' tokens.

    Raises:
        UserError: there is none by this name, it is not autoregressive, or it is a twin that reads other
        tokens.
    """
    if not is_baseline(Path(name)):
        return causal_judge(name, device)
    stored = read_baseline(Path(name))
    if stored.twin.kind != "autoregressive":
        raise UserError(
            f"evaluate.judge = '{name}': is the {stored.twin.kind} twin, which knows no text's likelihood; name the autoregressive one"
        )
    if stored.tokenizer_sha256 != shards.manifest["tokenizer_sha256"]:
        raise UserError(
            f"evaluate.judge = '{name}': was trained with another tokenizer than these shards; "
            "`dvc repro pipelines/baselines/dvc.yaml` trains it on them"
        )
    return baseline_judge(stored, shards.end_id, device)


def baseline_judge(stored: StoredBaseline, end_id: int, device: torch.device) -> Judge:
    """Return the autoregressive twin as a judge, of the very tokens of a text and the end token behind it,
    unless it fills its row.
    """
    twin, longest = stored.twin.to(device), stored.lengths.longest

    def model(ids: Tensor) -> tuple[Tensor, Tensor]:
        states = twin.hidden(ids)
        return states, twin.logits(states)

    return Judge(
        lambda ids, _: [[*row, end_id][:longest] for row in ids], model, twin.special, twin.special, device
    )


def causal_judge(name: str, device: torch.device) -> Judge:
    """Return a causal model of transformers, from a folder or the Hub, as a judge of words; it reads of a
    text what it has room for.

    Raises:
        UserError: it cannot be had, or it has no token to begin a text with.
    """
    go_offline_if_unreachable()
    import transformers

    offline = (
        os.environ.get("HF_HUB_OFFLINE") == "1"
    )  # told once more: its libraries may have been loaded before
    try:
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(name, local_files_only=offline)
        read: Any = transformers.AutoModelForCausalLM.from_pretrained(
            name, local_files_only=offline, use_safetensors=True
        )
    except (OSError, ValueError, KeyError) as error:
        told = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"evaluate.judge = '{name}': no such model here or on the Hugging Face Hub ({told}); {OFFLINE}"
        ) from error
    causal = read.to(device).eval()
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if begin is None:
        raise UserError(
            f"evaluate.judge = '{name}': its tokenizer has neither a first nor a last token; take another model, such as gpt2-large"
        )
    most = getattr(causal.config, "max_position_embeddings", 2**20) - 1

    def encode(_: Rows, words: Sequence[str]) -> Rows:
        return [tokenizer(text, add_special_tokens=False)["input_ids"][:most] for text in words]

    def model(ids: Tensor) -> tuple[Tensor, Tensor]:
        answer = causal(ids, output_hidden_states=True)
        return answer.hidden_states[-1], answer.logits

    return Judge(encode, model, begin, causal.config.vocab_size, device)


def require_enough(num_samples: int, num_held_out: int) -> None:
    """Refuse fewer texts than MAUVE can tell apart, before anything is written.

    Raises:
        UserError: fewer than 50 samples, or than twice that held out.
    """
    if num_samples < FEWEST:
        raise UserError(
            f"evaluate.num_samples = {num_samples}: with a judge MAUVE is measured, which needs {FEWEST} texts; "
            "set it higher, or evaluate.judge to null"
        )
    if num_held_out < 2 * FEWEST:
        raise UserError(
            f"the shards hold out {num_held_out} rows: with a judge MAUVE is measured, which needs {2 * FEWEST}; "
            "use more documents or a larger data.held_out_share, or set evaluate.judge to null"
        )


def measure_mauve(ours: Judged, theirs: Judged) -> dict[str, float]:
    """Return MAUVE over several seeds of the clusters: mean and standard deviation."""
    values = [mauve(ours.features, theirs.features, seed) for seed in range(MAUVE_SEEDS)]
    return {"mauve": float(np.mean(values)), "mauve_deviation": float(np.std(values, ddof=1))}
