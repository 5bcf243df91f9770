"""One JSON line a measurement, appended to results/benchmarks/results.jsonl with date and commit."""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sunfish.config.compose import check, compose
from sunfish.training.train_step import Recipe

RESULTS = Path(__file__).parents[1] / "results" / "benchmarks" / "results.jsonl"


def record(what: str, **values: Any) -> None:
    """Print a measurement and append it."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    kind = torch.backends.cpu.get_cpu_capability()
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU ({kind}), {torch.get_num_threads()} threads"
    )
    line = {
        "what": what,
        **values,
        "device": device,
        "torch": torch.__version__,
        "commit": commit,
        "date": time.strftime("%Y-%m-%d"),
    }
    print(json.dumps(line), flush=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps(line) + "\n")


def composed(*overrides: str) -> dict[str, Any]:
    """Return the configuration's sections."""
    with tempfile.TemporaryDirectory() as folder:
        compose(list(overrides), Path(folder) / "params.yaml")
        return check(Path(folder) / "params.yaml")


def recipe_of(params: dict[str, Any]) -> Recipe:
    """Return what decides a training of this configuration."""
    return Recipe(params["model"], params["schedule"], params["diffusion"], params["pretrain"])


def interleave(rounds: int, **variants: Callable[[], None]) -> dict[str, list[float]]:
    """Return seconds of each variant's call, in turn, so that a busy machine is busy for all; the first round
    is thrown away.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds + 1):
        for name, call in variants.items():
            started = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - started)
    return {name: values[1:] for name, values in seconds.items()}


def spread(values: list[float], digits: int = 3) -> dict[str, float]:
    """Return median, least and most."""
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }
