"""What is measured of a pile of texts. A metric is one function and one entry of `METRICS`.

A module named in `plugins` may add one: `METRICS["mine"] = lambda texts, context: {"my_share": 0.5}`."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from sunfish.errors import UserError
from sunfish.evaluation.context import EvalContext, Numbers, Texts
from sunfish.evaluation.judge import measure_mauve
from sunfish.evaluation.quality import sentences_of, story_metrics, text_metrics, training_sentences
from sunfish.text.puzzles import is_solved

Metric = Callable[[Texts, EvalContext], Numbers]
SEARCHED_TOKENS = 20_000_000  # of training text; sentences are not looked up in more
AS_REAL = 0.95  # of real texts are as probable to the judge as one that counts as real


def stories(texts: Texts, context: EvalContext) -> Numbers:
    """Return the grammar's verdict; nothing where texts are no stories."""
    return story_metrics(texts.words, context.grammar) if context.grammar else {}


def puzzles(texts: Texts, context: EvalContext) -> Numbers:
    """Return the share of grids whose rows, columns and boxes hold each digit once; nothing of other text."""
    size = context.puzzle_size
    return {"grids_valid": sum(is_solved(text, size) for text in texts.words) / len(texts)} if size else {}


def text(texts: Texts, context: EvalContext) -> Numbers:
    """Return what any text shows: variety and repetition."""
    return text_metrics(texts.ids, texts.words)


def memorised(texts: Texts, context: EvalContext) -> Numbers:
    """Return the share of sentences that stand word for word in the training text; nothing of generated text.

    Read it beside that of real held-out text, which has its commonplaces, too."""
    if context.grammar or context.puzzle_size or context.shards.num_tokens("train") > SEARCHED_TOKENS:
        return {}
    ours = [sentence for text in texts.words for sentence in sentences_of(text)]
    theirs = training_sentences(context.shards)
    return {"sentences_memorised": sum(map(theirs.__contains__, ours)) / max(1, len(ours))}


def judged(texts: Texts, context: EvalContext) -> Numbers:
    """Return the perplexity under the configured judge, the share of texts that it finds as probable as all
    but a twentieth of real ones, and MAUVE beside as many real texts.

    MAUVE depends on the number of texts, so smaller piles than the headline's have none."""
    if context.reference is None:
        return {}
    found = context.reference.judge.read(texts.ids, texts.words)
    real = context.reference.real
    near = measure_mauve(found, real) if len(texts) >= context.num_real else {}
    probable = float(np.mean(found.nats <= np.quantile(real.nats, AS_REAL)))
    return {"judged_perplexity": found.perplexity, "judged_as_real": probable, **near}


def cost(texts: Texts, context: EvalContext) -> Numbers:
    """Return what a sampled text took; nothing where texts are real."""
    if not texts.calls:
        return {}
    return {f"{key}_per_text": getattr(texts, key) for key in ("calls", "corrected", "seconds")}


METRICS: dict[str, Metric] = {
    "stories": stories,
    "puzzles": puzzles,
    "text": text,
    "judged": judged,
    "memorised": memorised,
    "cost": cost,
}


def measure(texts: Texts, context: EvalContext) -> Numbers:
    """Return every metric of some texts, and how many they are.

    Raises:
        UserError: a metric is not a finite number.
    """
    numbers: Numbers = {"count": len(texts)}
    for name, metric in METRICS.items():
        for key, value in metric(texts, context).items():
            if not math.isfinite(value):
                says = f"metric '{name}' gives {key} = {value}"
                raise UserError(f"evaluation: {says}; it must be a finite number")
            numbers[key] = value
    return numbers
