"""The founding table, measured: seconds and tokens per second of DDPM 1000, DDIM 50 and DDIM 10."""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch

from sunfish.model.denoiser import Denoiser
from sunfish.model.inference import sample_free
from sunfish.progress import track
from sunfish.sampler import Table, ddim, ddpm
from sunfish.schedule import NoiseLaw


def founding_tables(law: NoiseLaw) -> dict[str, Table]:
    """Return the samplers of the founding table by name."""
    return {"ddpm_1000": ddpm(law, 1000), "ddim_50": ddim(law, 50), "ddim_10": ddim(law, 10)}


def measure_speed(denoiser: Denoiser, law: NoiseLaw, length: int, num_runs: int) -> dict[str, dict[str, float]]:
    """Time one text of `length` tokens, batch 1; the median of `num_runs` after a warm-up."""
    sample_free(denoiser, ddim(law, 10), 1, length, np.random.default_rng(0))
    return {
        name: _time(denoiser, table, length, num_runs if len(table) < 500 else 1)
        for name, table in track(founding_tables(law).items(), "speed", "samplers", 3)
    }


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
