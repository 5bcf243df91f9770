"""What the trainings took: steps, trained parameters, memory, and the processor's time for a step."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from pipelines.baselines.train import equal_steps
from pipelines.finetune.train import METHODS, recipe_of
from sunfish.config.schema.launch import LaunchConfig
from sunfish.files import read_json
from sunfish.model.pretrained import StoredDenoiser
from sunfish.text.batches import RowDataset
from sunfish.text.shards import Shards
from sunfish.training.parallel import make_fabric
from sunfish.training.train_step import Recipe, start_run, train_step

ROUNDS = 12


def training_costs(
    sections: dict[str, Any], stored: StoredDenoiser, shards: Path, metrics: Path
) -> dict[str, Any]:
    """Return the numbers of both trainings, and the steps of the baseline's, which has as many operations."""
    rows = RowDataset(Shards(shards), "train", sections["data"])
    recipes = {name: recipe_of(name, sections, stored) for name in METHODS}
    sizes = sections["pretrain"].steps, stored.config.vocab_size, rows.lengths().median
    steps = equal_steps("autoregressive", stored.config.model, sections["diffusion"], *sizes)
    seconds = step_seconds(recipes, rows, sections["launch"], stored.config.vocab_size)
    return {
        "autoregressive": {"steps": steps},
        **{name: {**read_json(metrics / f"{name}.json"), "step_seconds": seconds[name]} for name in METHODS},
    }


def step_seconds(
    recipes: dict[str, Recipe], rows: RowDataset, launch: LaunchConfig, vocab_size: int
) -> dict[str, float]:
    """Return seconds of the processor for a step, the methods in turn on the same batches; medians."""
    fabric, pretrain = make_fabric(launch), recipes["full"].pretrain
    runs = {
        name: start_run(fabric, recipe, vocab_size, task_end_id=rows.end_id)
        for name, recipe in recipes.items()
    }
    order = rows.order(pretrain.batch_rows, pretrain.seed)
    seconds: dict[str, list[float]] = {name: [] for name in recipes}
    for step in range(ROUNDS + 1):
        ids = rows.read(order.indices(step))
        for name, run in runs.items():
            started = time.process_time()
            train_step(run, ids)
            seconds[name].append(time.process_time() - started)
    return {name: statistics.median(each[1:]) for name, each in seconds.items()}
