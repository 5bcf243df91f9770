"""Sudoku: puzzles solved by SunFish and by an autoregressive baseline that took as many operations to train.

python -m benchmarks.puzzles --folder runs/puzzles        # `experiment=puzzles`; a trained folder is kept

The baseline reads each puzzle before it writes the solution, which SunFish needs not: given cells are known
positions. Its loss is that of the solution alone. Both see random cells given, as many as there may be.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import composed, recipe_of
from pipelines.baselines.autoregressive import sample_autoregressive
from pipelines.baselines.train import equal_steps, train
from sunfish.errors import report_errors
from sunfish.evaluation.context import EvalContext, Numbers
from sunfish.evaluation.evaluate import about
from sunfish.evaluation.held_out import measure_bound
from sunfish.evaluation.metrics import measure
from sunfish.evaluation.solving import cut_puzzles, measure_solving, share_solved
from sunfish.files import write_json
from sunfish.model.baseline import StoredBaseline, read_baseline
from sunfish.progress import track
from sunfish.sampling.loop import Conditioning
from sunfish.sharding.shard import shard
from sunfish.training.cost import step_operations
from sunfish.training.parallel import flushing_denormals
from sunfish.training.run import Job, Places, pretrain

TEMPERATURES = {"a cell a call": 1.0, "the likeliest digit a call": 1e-4}
VOCAB = 257  # bytes and the end token

Params = dict[str, Any]


@report_errors
@flushing_denormals()
def main() -> None:
    """Train what is not there yet, and measure."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/puzzles"))
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/puzzles.json"))
    parser.add_argument("--prompt", choices=("random", "unique"), default="random", help="of the baseline")
    parser.add_argument("--only", choices=("denoiser", "baseline"), help="train this one, and do not measure")
    parser.add_argument("overrides", nargs="*", help="of the configuration, e.g. model.num_layers=2")
    arguments = parser.parse_args()
    params = composed("experiment=puzzles", "tracking=off", *arguments.overrides)
    folders = arguments.folder / "denoiser", arguments.folder / f"autoregressive-{arguments.prompt}"
    if arguments.only != "baseline" and not folders[0].exists():
        train_denoiser(params, arguments.folder)
    if arguments.only != "denoiser" and not folders[1].exists():
        train_baseline(params, arguments.prompt, folders[1])
    if arguments.only is None:
        write_json(arguments.out, compare(params, arguments.folder, read_baseline(folders[1])))


def train_denoiser(params: Params, folder: Path) -> None:
    """Shard solved grids and train on them."""
    shards = sharded(params, folder / "shards")
    places = Places(
        shards, folder / "denoiser", folder / "pretrain.json", folder / "curve.csv", folder / "runs"
    )
    pretrain(Job(params["data"], recipe_of(params), params["launch"], params["tracking"]), places)


def train_baseline(params: Params, prompt: str, folder: Path) -> None:
    """Shard puzzles with their solutions, and train on them with as many operations as the denoiser."""
    shards = sharded(prompted(params, prompt), folder.parent / f"shards-{prompt}")
    cells = puzzles_of(params).size ** 2
    train("autoregressive", prompted(params, prompt), shards, folder, weights=partial(behind_prompt, cells))


def behind_prompt(cells: int, ids: np.ndarray) -> np.ndarray:
    """Return that all behind a puzzle of so many cells counts alike, (rows, pos)."""
    return np.broadcast_to(np.arange(ids.shape[1]) >= cells, ids.shape).astype(np.float32)


def sharded(params: Params, folder: Path) -> Path:
    """Return the folder of the documents' shards, made if it is not there."""
    if not folder.exists():
        shard(params["data"], params["launch"].sharding, folder, folder.parent / "runs")
    return folder


def puzzles_of(params: Params) -> Any:
    """Return the source."""
    return params["data"].sources["puzzles"]


def prompted(params: Params, prompt: str) -> Params:
    """Return the configuration with a puzzle before each grid, and as many steps of the longer rows as the
    operations of the denoiser's training allow.
    """
    source = puzzles_of(params)
    source = dataclasses.replace(source, prompt=prompt, seed=source.seed + 1)
    cells, section = source.size**2, params["pretrain"]
    data = dataclasses.replace(
        params["data"], sources={"puzzles": source}, row_length=2 * cells + 1
    )  # and the end
    per_row = [
        step_operations(params["model"], params["diffusion"], VOCAB, 1, n + 1) for n in (cells, 2 * cells)
    ]
    steps = round(section.steps * per_row[0] / per_row[1])
    return {**params, "data": data, "pretrain": dataclasses.replace(section, steps=steps)}


def compare(params: Params, folder: Path, baseline: StoredBaseline) -> dict[str, Any]:
    """Return how many puzzles both solve, and what SunFish writes freely."""
    context = EvalContext.read(
        folder / "denoiser", folder / "shards", params["data"], params["evaluate"], params["sampler"]
    )
    recipe = params["model"], params["diffusion"]
    free = context.write_texts(context.sampler, params["evaluate"].compared_samples, seed=1)
    steps, rows = params["pretrain"].steps, params["pretrain"].batch_rows
    prompt = prompted(params, "random")
    longer = prompt["data"].row_length
    return {
        "about": about(context),
        "bound": measure_bound(context)[1],
        "free": measure(free, context),
        "solving": measure_solving(context),
        "autoregressive": solve_autoregressive(context, baseline),
        "training": {
            "steps": steps,
            "baseline_steps": equal_steps("autoregressive", *recipe, prompt["pretrain"].steps, VOCAB, longer),
            "rows_per_step": rows,
            "operations": steps * step_operations(*recipe, VOCAB, rows, params["data"].row_length),
        },
    }


def solve_autoregressive(context: EvalContext, stored: StoredBaseline) -> dict[str, Numbers]:
    """Return the share of the same puzzles that the baseline solves, one cell after another."""
    puzzles = cut_puzzles(context)
    empty = context.shards.tokenizer.encode(".")[0]
    results: dict[str, Numbers] = {}
    for name, temperature in TEMPERATURES.items():
        rng, started = np.random.default_rng((context.config.seed, 5)), time.perf_counter()
        found = [
            sample_autoregressive(stored.baseline, behind(part, empty), rng, temperature=temperature).ids
            for part in track(puzzles, name, "batches", len(puzzles))
        ]
        num = sum(len(part.ids) for part in puzzles)
        solutions = [ids[:, -part.ids.shape[1] :] for ids, part in zip(found, puzzles, strict=True)]
        results[name] = {
            "solved": share_solved(puzzles, solutions),
            "calls_per_text": float(puzzles[0].ids.shape[1]),
            "seconds_per_text": (time.perf_counter() - started) / num,
            "rows": num,
        }
    return results


def behind(puzzle: Conditioning, empty: int) -> Conditioning:
    """Return puzzles as prompts, and all that comes behind them unknown."""
    cells = slice(puzzle.ids.shape[1] - 1)  # without the end
    prompt = np.where(puzzle.known, puzzle.ids, empty)[:, cells]
    ids = np.concatenate((prompt, np.zeros_like(puzzle.ids)), axis=1)
    known = np.tile(np.arange(ids.shape[1]) < prompt.shape[1], (len(ids), 1))
    return Conditioning(ids, known)


if __name__ == "__main__":
    main()
