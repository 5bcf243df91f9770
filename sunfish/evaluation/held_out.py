"""The bound of a subject on its held-out rows, in nats and bits, for stories beside the grammar's exact
entropy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sunfish.evaluation.bound import Bound, bound_metrics, variational_bound
from sunfish.evaluation.context import EvalContext, Numbers
from sunfish.sampling.solvers import Given
from sunfish.text.lexicon import Grammar
from sunfish.text.stories import entropy_nats, judge


def measure_bound(subject: EvalContext, num_levels: int | None = None) -> tuple[Bound, Numbers]:
    """Return the bound on held-out rows; for stories beside the grammar's exact entropy. 0 levels: of a walk
    of one step a word.
    """
    section, stored, held_out = subject.section, subject.stored, subject.held_out
    indices = held_out.first(section.bound_rows)
    batches = [
        Given(ids, np.zeros_like(ids, dtype=bool)) for ids in held_out.batches(indices, section.batch_rows)
    ]
    rng = np.random.default_rng((section.seed, 0))
    bound = variational_bound(
        stored.denoiser, stored.law, stored.lengths, batches, section.bound_levels if num_levels is None else num_levels, rng,
        held_out.between, subject.path,
    )  # fmt: skip
    texts = [text for batch in batches for text in subject.texts(subject.cut(batch.ids)).words]
    num_bytes = sum(len(text.encode()) for text in texts)
    numbers = bound_metrics(bound, int(held_out.num_tokens(indices).sum()), max(1, num_bytes))
    return bound, numbers | (beside_grammar(bound.nats, texts, subject.grammar) if subject.grammar else {})


def beside_grammar(nats: np.ndarray, stories: Sequence[str], grammar: Grammar) -> Numbers:
    """Return the grammar's entropy, and by how much a model's -log p of some stories, (rows,), is above the
    grammar's own of the same.

    Story by story, because stories differ from one another far more than a model from the grammar: so the
    excess, and the model's ratio to the entropy, are known much better than either's mean."""
    excess = nats + np.array([judge(story, grammar).log_prob_nats for story in stories])
    return {
        "entropy_nats_per_row": entropy_nats(grammar),
        "excess_nats_per_row": float(excess.mean()),
        "excess_nats_per_row_standard_error": float(excess.std(ddof=1)) / math.sqrt(len(excess))
        if len(excess) > 1
        else 0.0,
        "bound_over_entropy": 1.0 + float(excess.mean()) / entropy_nats(grammar),
    }
