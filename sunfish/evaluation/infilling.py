"""Given parts of real held-out texts, the rest is sampled: a gap, or a beginning for a given end."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from sunfish.config.schema.sampler import SamplerConfig
from sunfish.evaluation.bound import BoundEstimator
from sunfish.evaluation.context import EvalContext, Numbers
from sunfish.evaluation.held_out import standard_error
from sunfish.evaluation.quality import story_metrics
from sunfish.progress import track
from sunfish.sampling.loop import Conditioning, Sampled
from sunfish.sampling.torch_backend import sample_texts

GAP_SHARE = 0.25  # of a text's tokens, in one piece
BEGINNING_SHARE = 0.5
LEVELS_SHARE = 1 / 3  # of the bound's noise levels: rows differ far more than levels

Cut = Callable[[int, np.random.Generator], tuple[int, int]]
"""Tokens of a text -> where its unknown part starts and ends."""


def gap(size: int, rng: np.random.Generator) -> tuple[int, int]:
    """Return a quarter of the text, at least one token, anywhere in it."""
    width = max(1, round(GAP_SHARE * size))
    start = int(rng.integers(size - width + 1))
    return start, start + width


def beginning(size: int, rng: np.random.Generator) -> tuple[int, int]:
    """Return the first half of the text, at least one token."""
    return 0, max(1, round(BEGINNING_SHARE * size))


CUTS: dict[str, Cut] = {"gap": gap, "beginning": beginning}


def cut_texts(ids: np.ndarray, end_id: int, cut: Cut, rng: np.random.Generator) -> Conditioning:
    """Return rows, (rows, pos), of whose texts one part is unknown; what is behind the end token is given."""
    known = np.ones_like(ids, dtype=bool)
    for row, flags in zip(ids, known, strict=True):
        ends = np.flatnonzero(row == end_id)
        start, end = cut(max(1, int(ends[0]) if len(ends) else len(row)), rng)
        flags[start:end] = False
    return Conditioning(ids, known)


def measure_infilling(context: EvalContext, name: str) -> Numbers:
    """Remove one part of each of the first held-out texts and sample it, given all else.

    Returns the share of given tokens that came back unchanged and of unknown ones equal to the original; for
    stories the share of consistent whole texts; calls, corrected tokens and seconds per text."""
    config, rng = context.config, np.random.default_rng((context.config.seed, 2))
    held_out = context.held_out
    batches = held_out.batches(held_out.first(config.infill_rows), config.batch_rows)
    parts = [cut_texts(ids, context.shards.end_id, CUTS[name], rng) for ids in batches]
    filled, seconds = fill(context, parts, context.sampler.for_gaps(), rng, f"infill {name}")
    return compare(context, parts, filled) | {"seconds_per_text": seconds}


def fill(
    context: EvalContext,
    parts: list[Conditioning],
    sampler: SamplerConfig,
    rng: np.random.Generator,
    what: str,
) -> tuple[list[Sampled], float]:
    """Sample what is unknown, batch by batch; return also the seconds per text."""
    plan, started = context.plan(sampler), time.perf_counter()
    progress = track(parts, what, "batches", len(parts))
    filled = [sample_texts(context.stored.denoiser, plan, part, rng) for part in progress]
    return filled, (time.perf_counter() - started) / sum(len(part.ids) for part in parts)


def compare(context: EvalContext, parts: list[Conditioning], filled: list[Sampled]) -> Numbers:
    """Return how sampled rows compare with the rows they came from."""
    same = np.concatenate([(p.ids == f.ids).ravel() for p, f in zip(parts, filled, strict=True)])
    known = np.concatenate([p.known.ravel() for p in parts])
    texts = [text for f in filled for text in context.texts(context.cut(f.ids)).words]
    numbers = {"given_kept": float(same[known].mean()), "unknown_as_written": float(same[~known].mean())}
    if context.grammar:
        numbers["stories_consistent"] = story_metrics(texts, context.grammar)["stories_consistent"]
    calls, corrected = (np.concatenate([getattr(f, k) for f in filled]) for k in ("calls", "corrected"))
    costs = {"calls_per_text": float(calls.mean()), "corrected_per_text": float(corrected.mean())}
    return numbers | costs | {"unknown_per_text": float((~known).sum() / len(texts)), "rows": len(texts)}


def measure_gap_bound(context: EvalContext) -> Numbers:
    """Return the bound of what really stood in the gaps, given the text around them, nats per gap token."""
    config, rng = context.config, np.random.default_rng((context.config.seed, 3))
    held_out, stored = context.held_out, context.stored
    batches = held_out.batches(held_out.first(config.infill_rows), config.batch_rows)
    parts = [cut_texts(ids, context.shards.end_id, gap, rng) for ids in batches]
    levels = max(1, round(LEVELS_SHARE * config.bound_levels))
    estimator = BoundEstimator(stored.denoiser, stored.schedule, levels, rng, held_out.between)
    nats = estimator.bound(parts, None).nats
    tokens = sum(int((~part.known).sum()) for part in parts)
    error = standard_error(nats) * len(nats) / tokens
    return {"nats_per_token": float(nats.sum()) / tokens, "nats_per_token_standard_error": error}
