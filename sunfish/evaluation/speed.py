"""How long a text takes: the founding table (DDPM 1000, DDIM 50 and DDIM 10), and how soon a sampler is as
good as it gets.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch

from sunfish.diffusion.schedule import NoiseSchedule
from sunfish.model.denoiser import Denoiser
from sunfish.progress import track
from sunfish.sampling.solvers import Table, ddim, ddpm
from sunfish.sampling.torch_backend import sample_free

NEARLY = 0.95  # of the quality
MATCHED = 0.1  # nats of entropy: beyond that texts do not rank


def founding_tables(law: NoiseSchedule) -> dict[str, Table]:
    """Return the samplers of the founding table by name."""
    return {"ddpm_1000": ddpm(law, 1000), "ddim_50": ddim(law, 50), "ddim_10": ddim(law, 10)}


def measure_speed(
    denoiser: Denoiser, law: NoiseSchedule, length: int, num_runs: int
) -> dict[str, dict[str, float]]:
    """Time one text of `length` tokens, batch 1; the median of `num_runs` after a warm-up."""
    sample_free(denoiser, ddim(law, 10), 1, length, np.random.default_rng(0))
    return {
        name: _time(denoiser, table, length, num_runs if len(table) < 500 else 1)
        for name, table in track(founding_tables(law).items(), "speed", "samplers", 3)
    }


def time_to_quality(
    rows: dict[str, dict[str, float]], best: dict[str, float]
) -> dict[str, float | str] | None:
    """Return which of a sampler's settings is the fastest that reaches a quality, and what a text takes
    there; None where none does.

    The quality is 0.95 times the consistent stories of `best` or, of other text, 1 / 0.95 times its judged
    perplexity; it counts at entropies within 0.1 nats of its own only. Seconds are a batch's share."""
    reached = {at: row for at, row in rows.items() if reaches(row, best)}
    if not reached:
        return None
    at = min(reached, key=lambda at: reached[at]["seconds_per_text"])
    row = reached[at]
    seconds = row["seconds_per_text"]
    return {
        "at": at,
        "seconds_per_text": seconds,
        "calls_per_text": row["calls_per_text"],
        "tokens_per_second": row["tokens_per_sample"] / seconds,
    }


def reaches(row: dict[str, float], best: dict[str, float]) -> bool:
    """Say whether a row of the frontier is as good as `best`, nearly, at the same entropy."""
    if abs(row["entropy_corpus_nats"] - best["entropy_corpus_nats"]) > MATCHED:
        return False
    if "stories_consistent" in best:
        return row["stories_consistent"] >= NEARLY * best["stories_consistent"]
    return "judged_perplexity" in best and row["judged_perplexity"] <= best["judged_perplexity"] / NEARLY


def _time(denoiser: Denoiser, table: Table, length: int, num_runs: int) -> dict[str, float]:
    seconds = []
    for run in range(num_runs):
        started = time.perf_counter()
        sample_free(denoiser, table, 1, length, np.random.default_rng(run))
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds)
    return {"seconds": median, "tokens_per_second": length / median, "runs": num_runs}
