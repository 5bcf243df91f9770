"""Puzzles of one solution, made of held-out grids: given cells are known positions, others are sampled."""

from __future__ import annotations

import dataclasses

import numpy as np

from sunfish.config.schema.sampler import SamplerConfig
from sunfish.evaluation.context import EvalContext, Numbers, name_of
from sunfish.evaluation.infilling import compare, fill
from sunfish.evaluation.samplers import named, plain
from sunfish.sampling.loop import Conditioning
from sunfish.text.puzzles import random_puzzle

UNCHECKED = (("ddpm", 50), ("ddim", 50), ("ddpm-categorical", 50))
KEPT_ABOVE = (0.9, 0.99)


def solving_samplers(context: EvalContext) -> dict[str, SamplerConfig]:
    """Return the configured sampler, plain ones, and DDPM that keeps cells once they are sure."""
    ddpm, *others = (plain(context, name, steps) for name, steps in UNCHECKED)
    kept = (dataclasses.replace(ddpm, confidence_threshold=threshold) for threshold in KEPT_ABOVE)
    beside = named([ddpm, *others, *kept])
    beside.pop(name_of(context.sampler), None)
    return {"configured": context.sampler, **beside}


def cut_puzzles(context: EvalContext) -> list[Conditioning]:
    """Return batches of the first held-out grids, of which no given cell could be left out."""
    rng, held_out = np.random.default_rng((context.config.seed, 4)), context.held_out
    batches = held_out.batches(held_out.first(context.config.infill_rows), context.config.batch_rows)
    return [Conditioning(ids, np.stack([_given(context, row, rng) for row in ids])) for ids in batches]


def _given(context: EvalContext, row: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    text = context.shards.tokenizer.decode_row(row.tolist())
    given = random_puzzle(np.array([int(digit) for digit in text]), rng)
    return np.pad(given, (0, len(row) - len(given)), constant_values=True)  # the end is given


def measure_solving(context: EvalContext) -> dict[str, Numbers]:
    """Return by sampler which share of the puzzles comes out solved, of their open cells right, and at what
    cost.
    """
    puzzles, rng = cut_puzzles(context), np.random.default_rng((context.config.seed, 5))
    given = float(np.mean([part.known.sum(axis=1) - 1 for part in puzzles]))
    results: dict[str, Numbers] = {}
    for name, sampler in solving_samplers(context).items():
        filled, seconds = fill(context, puzzles, sampler, rng, f"solve {name}")
        results[name] = {
            "solved": share_solved(puzzles, [each.ids for each in filled]),
            **compare(context, puzzles, filled),
            "given_per_text": given,
            "seconds_per_text": seconds,
        }
    return results


def share_solved(puzzles: list[Conditioning], found: list[np.ndarray]) -> float:
    """Return the share of puzzles of which every cell is right."""
    return float(np.mean([(p.ids == ids).all(axis=1) for p, ids in zip(puzzles, found, strict=True)]))
