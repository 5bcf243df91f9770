"""One text as it comes out of the noise: what stands where after each call, and how sure the model is."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sunfish.evaluation.context import EvalContext
from sunfish.sampling.loop import Conditioning, sample_loop
from sunfish.sampling.noise import noise_of
from sunfish.sampling.torch_backend import TorchBackend

MAX_DRAFTS, MAX_STEPS = 12, 24  # shown of one text, and of one draft
TRIES = 8  # texts looked at for one that a check corrects
COMMON = 0.05  # share of the rows that must have the length shown


@dataclass(frozen=True, eq=False)
class Frame:
    """The text after one call, denoise or check; `round` counts drafts, `step` steps of one, from 0.

    `struck` holds the tokens that the check just rejected, '' elsewhere."""

    kind: str
    round: int
    step: int
    tokens: list[str]
    confidence: np.ndarray  # (pos,), 1 where the token was known before the step, or is after the check
    known: np.ndarray  # bool, (pos,)
    struck: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return plain values; confidence in percent."""
        return {
            "kind": self.kind, "round": self.round, "step": self.step, "tokens": self.tokens,
            "confidence": [round(100 * float(value)) for value in self.confidence],
            "known": self.known.tolist(), "struck": self.struck,
        }  # fmt: skip


def pick_trajectory(context: EvalContext) -> list[Frame]:
    """Return the first of a few texts that a check corrects, or the first one.

    All have a short length that is not rare, so that one picture holds them."""
    lengths = context.stored.lengths
    counted = zip(lengths.lengths, lengths.counts, strict=True)
    common = (length for length, count in counted if count >= COMMON * sum(lengths.counts))
    length = next(common, lengths.median)
    tries = 1 if context.sampler.check is None else TRIES
    texts = [follow(context, length, (context.config.seed, 4, index)) for index in range(tries)]
    return next((frames for frames in texts if any(any(frame.struck) for frame in frames)), texts[0])


@torch.no_grad()
def follow(context: EvalContext, length: int, seed: tuple[int, ...]) -> list[Frame]:
    """Sample one text of `length` tokens and keep what stands there after each call."""
    denoiser, plan = context.stored.denoiser, context.plan(context.sampler)
    draw = noise_of([np.random.default_rng(seed)], length, denoiser.config.emb_dim)
    backend, frames, was_known = TorchBackend(denoiser, draw, plan), list[Frame](), np.zeros(length, bool)
    with denoiser.cached_readout():
        for event in sample_loop(plan, backend, Conditioning.nothing(1, length)):
            seen, is_check = backend.snapshot(), event.kind == "check"
            tokens, known, rejected = seen.tokens[0], seen.known[0], seen.rejected[0]
            confidence = backend.confidence[0].float().cpu().numpy()
            sure = np.where(known if is_check else was_known, 1.0, confidence)
            before = frames[-1].tokens if is_check else [""] * length
            struck = [word * bool(wrong) for word, wrong in zip(before, rejected & is_check, strict=True)]
            now = context.token_texts(tokens)
            frames.append(Frame(event.kind, event.round, event.step, now, sure, known, struck))
            was_known = known
    return frames


def thin(frames: list[Frame]) -> list[Frame]:
    """Return the frames to show: few steps of each draft, and the first drafts and the last one of many."""
    last = frames[-1].round
    shown = [frame for frame in frames if frame.round < MAX_DRAFTS - 1 or frame.round == last]
    drafts = [list(group) for _, group in itertools.groupby(shown, key=lambda frame: frame.round)]
    return [frame for draft in drafts for frame in _thin_draft(draft)]


def _thin_draft(frames: list[Frame]) -> list[Frame]:
    """Return at most `MAX_STEPS` even steps of one draft, the first and last among them, and its check."""
    steps = [frame for frame in frames if frame.kind == "denoise"]
    chosen = np.linspace(0, len(steps) - 1, min(MAX_STEPS, len(steps))).round().astype(int)
    return [steps[k] for k in chosen] + [frame for frame in frames if frame.kind == "check"]
