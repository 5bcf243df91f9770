"""Fine-tune a pretrained denoiser on tasks: all of its weights, or an adapter over them.

python -m pipelines.finetune.train lora --out models/finetuned/lora --metrics ... --curve ...
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from sunfish.config.compose import read_section
from sunfish.errors import UserError, report_errors
from sunfish.model.pretrained import StoredDenoiser, read_denoiser
from sunfish.text.batches import RowDataset
from sunfish.text.layouts import TaskRows
from sunfish.text.shards import Shards
from sunfish.training.finetune import Finetune, require_fit
from sunfish.training.run import Job, Places, pretrain
from sunfish.training.train_step import Recipe

METHODS = ("full", "lora")
SECTIONS = ("data", "schedule", "diffusion", "pretrain", "lora", "launch", "tracking")
HERE = Path("pipelines/finetune/params.yaml")


@report_errors
def main() -> None:
    """Fine-tune, or carry on where an interrupted run stopped."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("--params", type=Path, default=HERE)
    parser.add_argument("--base", type=Path, default=Path("models/denoiser"), help="a pretrained denoiser")
    parser.add_argument("--shards", type=Path, default=Path("data/tasks"))
    parser.add_argument("--out", type=Path, required=True, help="a denoiser's folder, or an adapter's")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file of final numbers")
    parser.add_argument("--curve", type=Path, required=True, help="CSV file of the loss curve")
    parser.add_argument("--runs", type=Path, help="where interrupted runs are kept (default: runs/)")
    arguments = parser.parse_args()
    params = {name: read_section(arguments.params, name) for name in SECTIONS}
    folders = (arguments.shards, arguments.out, arguments.metrics, arguments.curve, arguments.runs)
    finetune(arguments.method, params, arguments.base, Places(*folders, arguments.params))


def finetune(method: str, params: dict[str, Any], base: Path, places: Places) -> None:
    """Train on the shards' tasks and write what was learned.

    Raises:
        UserError: the base cannot learn from them, or rows hold no tasks.
    """
    if params["data"].rows != "tasks":
        raise UserError(f"data.rows = {params['data'].rows}: must be tasks, as in data=story_tasks")
    stored, rows = read_denoiser(base), RowDataset(Shards(places.shards), "train", params["data"])
    require_fit(stored, places.shards, params["diffusion"])
    require_tasks(rows, places.shards)
    recipe = recipe_of(method, params, stored)
    pretrain(Job(params["data"], recipe, params["launch"], params["tracking"]), places)


def recipe_of(method: str, params: dict[str, Any], stored: StoredDenoiser) -> Recipe:
    """Return the training of all of a denoiser's weights, or of an adapter over them by AdamW alone."""
    config, lora = params["pretrain"], params["lora"] if method == "lora" else None
    if lora is not None:
        optim = dataclasses.replace(config.optim, muon_lr=None, adamw_lr=lora.adamw_lr)
        config = dataclasses.replace(config, optim=optim)
    begun = Finetune.of(stored, lora)
    return Recipe(stored.config.model, params["schedule"], params["diffusion"], config, begun)


def require_tasks(rows: RowDataset, shards: Path) -> None:
    """Refuse rows without an instruction, and print how many answers are cut."""
    if not isinstance(rows.layout, TaskRows) or rows.answers is None:
        raise UserError(f"{shards}: holds no instruction; shard tasks, as data=story_tasks has them")
    if num := rows.layout.num_truncated:
        longest = f"data.row_length = {rows.row_length} tokens"
        print(f"{num:,} of {len(rows):,} tasks are longer than {longest}: their answers are cut at the end")


if __name__ == "__main__":
    main()
