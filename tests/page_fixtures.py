"""What the page is held against: numpy's draws, solver tables, encodings, and texts that the runtime writes.

`python -m tests.page_fixtures FILE [FOLDER] [PRECISION] [SEEDS]` writes them."""

from __future__ import annotations

import base64
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from sunfish.runtime.generator import Sampler
from sunfish.runtime.prompts import infill_row
from sunfish.runtime.settings import Settings, resolve
from sunfish.sampling.solvers import SAMPLERS, time_grid

ENTROPY = [[0, 0], [7, 0], [2**32 - 1, 0], [2**40 + 5, 3]]
WEIGHTS = [5, 199, 18242, 39656, 239]
GAPS = ("once tom had a red kite . [MASK:6] . he was happy .", "once [MASK] had a [MASK:2] . she went home .")
ASKED = "one day anna"
TEXTS = ("once tom had a red kite .", " It's 42 °C — naïve 🐟!\n\n  two  spaces ", "tab\tand 'quotes' we'll")


def page_fixtures(folder: Path, precision: str, seeds: int) -> dict[str, Any]:
    """Return all of them, for a folder at a precision."""
    sampler = Sampler.load(folder, precision, num_threads=1, note=lambda note: None)
    runs = [("", None, None, None), ("", None, None, False), ("once anna", "ddim", 12, True)]
    runs += [(gap, None, None, None) for gap in GAPS]
    told = [("once", ASKED)] if sampler.config.answers else []
    return {
        "folder": str(folder.resolve()),
        "precision": precision,
        "random": [_draws(entropy) for entropy in ENTROPY],
        "weights": WEIGHTS,
        "tables": [
            _table(sampler, name, steps, start)
            for name in SAMPLERS
            for steps, start in ((1, 1.0), (2, 0.7), (9, 1.0), (50, 1.0))
        ],
        "encodings": [{"text": text, "ids": sampler.tokenizer.encode(text)} for text in TEXTS],
        "texts": [text(sampler, seed, *run) for run in runs for seed in range(seeds)]
        + [
            text(sampler, seed, prompt, None, None, None, asked)
            for prompt, asked in told
            for seed in range(seeds)
        ],
    }


def text(
    sampler: Sampler,
    seed: int,
    prompt: str,
    name: str | None,
    steps: int | None,
    check: bool | None,
    instruction: str | None = None,
) -> dict[str, Any]:
    """Return what is asked for, and the ids, calls and corrections that the runtime comes to."""
    asked, has_gaps = Settings(sampler=name, steps=steps, check=check, seed=seed), "[MASK" in prompt
    how = resolve(asked, sampler.config, has_gaps=has_gaps)
    rng = np.random.default_rng((seed, 0))
    row = (
        infill_row(sampler.tokenizer, prompt, sampler.lengths, rng)
        if has_gaps
        else sampler._row(None, prompt or None, rng, instruction)
    )
    written = sampler.batches.sample([row], [rng], how)[0]
    about = {"seed": seed, "prompt": prompt, "sampler": name, "steps": steps, "check": check}
    about["instruction"] = instruction
    return {**about, "ids": written.ids.tolist(), "calls": written.calls, "corrected": written.corrected}


def _draws(entropy: list[int]) -> dict[str, Any]:
    rng = np.random.default_rng(entropy)
    chosen = int(rng.choice(np.arange(5), size=1, p=np.array(WEIGHTS) / sum(WEIGHTS))[0])
    normals, floats = rng.standard_normal(20_001, np.float32), rng.random(40, np.float32)
    integers = [int(rng.integers(below)) for below in range(1, 9)]
    encoded = {"normals": _base64(normals), "floats": _base64(floats), "integers": integers}
    return {"entropy": entropy, "choice": chosen, "double": rng.random(), **encoded}


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()


def _table(sampler: Sampler, name: str, steps: int, start: float) -> dict[str, Any]:
    config = dataclasses.replace(sampler.config.sampler, name=name, eta=0.5, churn=0.3)
    table = SAMPLERS[name](time_grid(sampler.batches.schedule, start), steps, config)
    return {
        "name": name,
        "steps": steps,
        "start": start,
        "eta": 0.5,
        "churn": 0.3,
        "rows": table.rows.tolist(),
    }


if __name__ == "__main__":
    file, folder, precision, seeds = [*sys.argv[1:], *("sunfish/shipped", "int8", "3")[len(sys.argv) - 2 :]]
    Path(file).write_text(json.dumps(page_fixtures(Path(folder), precision, int(seeds))), encoding="utf-8")
