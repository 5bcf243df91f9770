"""How probable the denoiser finds held-out text: the bound of its denoising, and the likelihood of its check.

They are two models of text in one network, so their numbers stand side by side and are never mixed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from sunfish.diffusion.schedule import Array
from sunfish.evaluation.bound import Bound, BoundEstimator, to_numpy
from sunfish.evaluation.context import EvalContext, Numbers
from sunfish.model.attention_mask import document_ids
from sunfish.progress import track
from sunfish.sampling.loop import Conditioning
from sunfish.text.lexicon import Grammar
from sunfish.text.stories import entropy_nats, judge


def measure_bound(context: EvalContext) -> tuple[Bound, Numbers]:
    """Return the bound on held-out rows and its numbers, for stories beside the grammar's exact entropy."""
    config, stored = context.config, context.stored
    batches = [Conditioning(ids, np.zeros_like(ids, dtype=bool)) for ids in held_out_batches(context)]
    rng, separator = np.random.default_rng((config.seed, 0)), context.held_out.between
    estimator = BoundEstimator(stored.denoiser, stored.schedule, config.bound_levels, rng, separator)
    bound = estimator.bound(batches, stored.lengths)
    terms = {
        "prior_nats_per_row": float(bound.prior_nats.mean()),
        "length_nats_per_row": float(bound.length_nats.mean()),
        "reconstruction_nats_per_row": float(bound.reconstruction_nats.mean()),
        "levels_per_row": config.bound_levels,
    }
    return bound, likelihood_numbers(context, bound.nats) | terms


@torch.no_grad()
def measure_causal(context: EvalContext) -> Numbers:
    """Return how probable the causal pass finds held-out rows: its exact -log p, no bound."""
    denoiser, nats = context.stored.denoiser, list[Array]()
    batches = held_out_batches(context)
    for ids in track(batches, "causal likelihood", "batches", len(batches)):
        tokens = torch.from_numpy(ids).to(context.device)
        weight = torch.ones(tokens.shape, device=tokens.device)
        each = denoiser.next_token_nats(tokens, weight, document_ids(tokens, context.held_out.between))
        nats.append(to_numpy(each).sum(axis=1) + context.stored.lengths.nats(np.full(len(ids), ids.shape[1])))
    return likelihood_numbers(context, np.concatenate(nats))


def held_out_batches(context: EvalContext) -> list[np.ndarray]:
    """Return the first held-out rows in batches of one length, (rows, pos) each."""
    held_out, config = context.held_out, context.config
    return list(held_out.batches(held_out.first(config.bound_rows), config.batch_rows))


def likelihood_numbers(context: EvalContext, nats: Array) -> Numbers:
    """Return what -log p of the first held-out rows, (rows,) as in `held_out_batches`, comes to.

    A token is one of the text or the end token behind it. Filling behind that is in the sum, not in the
    count."""
    indices, rows = context.held_out.first(context.config.bound_rows), len(nats)
    texts = [text for ids in held_out_batches(context) for text in context.texts(context.cut(ids)).words]
    num_tokens = int(context.held_out.num_tokens(indices).sum())
    num_bytes = max(1, sum(len(text.encode()) for text in texts))
    total, error = float(nats.sum()), standard_error(nats)
    numbers = {
        "nats_per_token": total / num_tokens,
        "nats_per_token_standard_error": error * rows / num_tokens,
        "perplexity": math.exp(min(total / num_tokens, 700.0)),
        "bits_per_byte": total / math.log(2) / num_bytes,
        "nats_per_row": total / rows,
        "nats_per_row_standard_error": error,
        "rows": rows,
    }
    return numbers | (beside_grammar(nats, texts, context.grammar) if context.grammar else {})


def beside_grammar(nats: Array, stories: Sequence[str], grammar: Grammar) -> Numbers:
    """Return the grammar's entropy, and how far a model's -log p of some stories, (rows,), lies above it.

    The difference is taken story by story: stories differ from one another far more than a model does from
    the grammar, so the excess is known much better than either mean. Rows that are no whole story are left
    out."""
    exact = np.array([judge(story, grammar).log_prob_nats for story in stories])
    excess = (nats + exact)[np.isfinite(exact)]
    if not len(excess):
        return {}
    entropy = entropy_nats(grammar)
    return {
        "entropy_nats_per_row": entropy,
        "excess_nats_per_row": float(excess.mean()),
        "excess_nats_per_row_standard_error": standard_error(excess),
        "ratio_to_entropy": 1.0 + float(excess.mean()) / entropy,
    }


def standard_error(values: Array) -> float:
    """Return the standard error of the mean; 0 of a single value."""
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
