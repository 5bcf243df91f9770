"""Gaps in real held-out texts: how well the model fills them, and how likely it finds the true filling."""

from __future__ import annotations

import math

import numpy as np

from sunfish.evaluation.bound import variational_bound
from sunfish.evaluation.context import EvalContext
from sunfish.evaluation.quality import story_metrics
from sunfish.model.score import fill_gaps
from sunfish.progress import track
from sunfish.sampling.solvers import Given

GAP_SHARE = 0.25  # of a text's tokens, in one piece


def measure_infilling(subject: EvalContext) -> dict[str, float]:
    """Cut one gap into each of the first held-out rows and fill it, the likeliest of several fillings; all
    else is given.

    Returns the share of given tokens that came back unchanged, of gap tokens equal to the true ones and, for
    stories, of whole texts the oracle finds consistent; and the variational bound of the true filling, nats
    per gap token."""
    section, stored = subject.section, subject.stored
    rng = np.random.default_rng((section.seed, 2))
    indices = subject.held_out.first(section.infill_rows)
    gaps = [
        cut_gaps(ids, subject.shards.end_id, rng)
        for ids in subject.held_out.batches(indices, section.batch_rows)
    ]
    parts, filled = _parts(gaps, max(1, section.batch_rows // section.infill_candidates)), []
    for gap in track(parts, "infill", "batches", len(parts)):
        filled.append(
            fill_gaps(
                stored.denoiser, subject.table(), gap, rng, section.temperature, section.infill_candidates
            )[0]
        )
    same, known = (
        np.concatenate([a.ravel() for a in arrays]) for arrays in zip(*_compare(parts, filled), strict=True)
    )
    bound = variational_bound(
        stored.denoiser,
        stored.law,
        None,
        gaps,
        section.bound_levels,
        rng,
        subject.held_out.between,
        subject.path,
    )
    texts = [text for ids in filled for text in subject.texts(subject.cut(ids)).words]
    sizes, rows = float((~known).sum()), len(bound.nats)
    return {
        "given_kept": float(same[known].mean()),
        "gap_tokens_as_written": float(same[~known].mean()),
        **(
            {"stories_consistent": story_metrics(texts, subject.grammar)["stories_consistent"]}
            if subject.grammar
            else {}
        ),
        "nats_per_gap_token": float(bound.nats.sum()) / sizes,
        "nats_per_gap_token_standard_error": float(bound.nats.std(ddof=1)) * math.sqrt(rows) / sizes
        if rows > 1
        else 0.0,
        "gap_share": GAP_SHARE,
        "candidates": section.infill_candidates,
        "rows": rows,
    }


def _parts(gaps: list[Given], size: int) -> list[Given]:
    return [
        Given(gap.ids[k : k + size], gap.known[k : k + size])
        for gap in gaps
        for k in range(0, len(gap.ids), size)
    ]


def _compare(gaps: list[Given], filled: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(gap.ids == ids, gap.known) for gap, ids in zip(gaps, filled, strict=True)]


def cut_gaps(ids: np.ndarray, end_id: int, rng: np.random.Generator) -> Given:
    """Return rows, (rows, pos), with a gap of a quarter of each text's tokens, at least one, anywhere in
    it.
    """
    known = np.ones_like(ids, dtype=bool)
    for row, flags in zip(ids, known, strict=True):
        ends = np.flatnonzero(row == end_id)
        size = max(1, int(ends[0]) if len(ends) else len(row))
        width = max(1, round(GAP_SHARE * size))
        start = rng.integers(size - width + 1)
        flags[start : start + width] = False
    return Given(ids, known)
