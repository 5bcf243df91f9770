"""One text as it comes out of the noise: what stands where after each call, and how sure the model is of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sunfish.evaluation.context import EvalContext
from sunfish.sampling.loop import Conditioning, sample_loop
from sunfish.sampling.noise import noise_of
from sunfish.sampling.torch_backend import TorchBackend

MAX_FRAMES = 28  # shown
TRIES = 8  # texts looked at for one that a check corrects
COMMON = 0.05  # share of the rows that must have the length shown


@dataclass(frozen=True, eq=False)
class Frame:
    """The text after one call: `kind` is denoise or check; `round` counts drafts, `step` steps of one, from 0.

    `struck` holds the tokens that the check just rejected, '' elsewhere."""

    kind: str
    round: int
    step: int
    tokens: list[str]
    confidence: np.ndarray  # (pos,), 1 where known
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
    enough = COMMON * sum(lengths.counts)
    common = (length for length, count in zip(lengths.lengths, lengths.counts, strict=True) if count >= enough)
    length = next(common, lengths.median)
    tries = 1 if context.sampler.check is None else TRIES
    texts = [follow(context, length, (context.config.seed, 4, index)) for index in range(tries)]
    return next((frames for frames in texts if any(any(frame.struck) for frame in frames)), texts[0])


@torch.no_grad()
def follow(context: EvalContext, length: int, seed: tuple[int, ...]) -> list[Frame]:
    """Sample one text of `length` tokens and keep what stands there after each call."""
    denoiser, plan = context.stored.denoiser, context.plan(context.sampler)
    draw = noise_of([np.random.default_rng(seed)], length, denoiser.config.emb_dim)
    backend, frames = TorchBackend(denoiser, draw, plan), list[Frame]()
    with denoiser.cached_readout():
        for event in sample_loop(plan, backend, Conditioning.nothing(1, length)):
            tokens, confidence, known, rejected = (part[0] for part in backend.snapshot()[1:])
            is_check = event.kind == "check"
            struck = [
                before if is_check and wrong else ""
                for before, wrong in zip(frames[-1].tokens if frames else [""] * length, rejected, strict=True)
            ]
            now = context.token_texts(tokens)
            frames.append(Frame(event.kind, event.round, event.step, now, confidence, known, struck))
    return frames


def thin(frames: list[Frame], most: int = MAX_FRAMES) -> list[Frame]:
    """Return at most about `most` frames: every check, every draft's last step, and even steps between."""
    steps = [k for k, frame in enumerate(frames) if frame.kind == "denoise"]
    ends = {k for k in steps if k + 1 == len(frames) or frames[k + 1].kind == "check"}
    chosen = {steps[k] for k in np.linspace(0, len(steps) - 1, min(most, len(steps))).round().astype(int)}
    kept = chosen | ends | {k for k, frame in enumerate(frames) if frame.kind == "check"}
    return [frames[k] for k in sorted(kept)]
