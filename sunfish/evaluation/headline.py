"""A dozen numbers out of all: flat, so that `dvc metrics show` fits a terminal."""

from __future__ import annotations

from typing import Any

DIGITS = 4
HEADLINE = {
    "bound_nats": ("bound", "nats_per_token"),
    "causal_nats": ("causal", "nats_per_token"),
    "valid": ("headline", "sentences_valid"),
    "consistent": ("headline", "stories_consistent"),
    "grids_valid": ("headline", "grids_valid"),
    "solved": ("solving", "configured", "solved"),
    "perplexity": ("headline", "judged_perplexity"),
    "as_real": ("headline", "judged_as_real"),
    "memorised": ("headline", "sentences_memorised"),
    "mauve": ("headline", "mauve"),
    "entropy_nats": ("headline", "entropy_corpus_nats"),
    "unique": ("headline", "unique"),
    "calls": ("headline", "calls_per_text"),
    "corrected": ("headline", "corrected_per_text"),
    "seconds": ("headline", "seconds_per_text"),
    "draft_consistent": ("draft", "stories_consistent"),
    "gap_consistent": ("infilling", "gap", "stories_consistent"),
    "start_consistent": ("infilling", "beginning", "stories_consistent"),
}


def headline_numbers(results: dict[str, Any]) -> dict[str, float]:
    """Return the headline numbers that there are, rounded to four decimals.

    `headline` is the configured sampler's; `draft` the same without its check."""
    found = {name: _at(results, path) for name, path in HEADLINE.items()}
    return {name: round(value, DIGITS) for name, value in found.items() if value is not None}


def _at(values: Any, path: tuple[str, ...]) -> float | None:
    for key in path:
        if key not in values:
            return None
        values = values[key]
    return float(values)
