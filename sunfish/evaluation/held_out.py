"""The bound of a subject on its held-out rows, in nats and bits, for stories beside the grammar's exact entropy."""

from __future__ import annotations

import numpy as np

from sunfish.evaluation.bound import Bound, bound_metrics, variational_bound
from sunfish.evaluation.subject import Numbers, Subject
from sunfish.sampler import Given
from sunfish.text.stories import entropy_nats


def measure_bound(subject: Subject) -> tuple[Bound, Numbers]:
    """Return the bound on held-out rows; for stories beside the grammar's exact entropy."""
    section, stored, held_out = subject.section, subject.stored, subject.held_out
    indices = held_out.first(section.bound_rows)
    batches = [Given(ids, np.zeros_like(ids, dtype=bool)) for ids in held_out.batches(indices, section.batch_rows)]
    rng = np.random.default_rng((section.seed, 0))
    bound = variational_bound(
        stored.denoiser, stored.law, stored.lengths, batches, section.bound_levels, rng, held_out.between, subject.path
    )
    num_bytes = sum(len(text.encode()) for batch in batches for text in subject.texts(subject.cut(batch.ids)).words)
    numbers = bound_metrics(bound, int(held_out.num_tokens(indices).sum()), max(1, num_bytes))
    if subject.is_stories:
        numbers["entropy_nats_per_row"] = entropy_nats()
        numbers["bound_over_entropy"] = numbers["nats_per_row"] / entropy_nats()
    return bound, numbers
