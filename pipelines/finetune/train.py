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
from sunfish.model.pretrained import read_denoiser
from sunfish.text.batches import RowDataset
from sunfish.text.shards import Shards
from sunfish.training.finetune import Finetune, require_fit
from sunfish.training.run import Job, Places, pretrain
from sunfish.training.train_step import Recipe

SECTIONS = ("data", "schedule", "diffusion", "pretrain", "lora", "launch", "tracking")
HERE = Path("pipelines/finetune/params.yaml")


@report_errors
def main() -> None:
    """Fine-tune, or carry on where an interrupted run stopped."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("method", choices=["full", "lora"])
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
    stored, shards = read_denoiser(base), Shards(places.shards)
    require_fit(stored, places.shards, params["diffusion"])
    say_truncated(RowDataset(shards, "train", params["data"]))
    config, lora = params["pretrain"], params["lora"] if method == "lora" else None
    if lora is not None:
        optim = dataclasses.replace(config.optim, muon_lr=None, adamw_lr=lora.adamw_lr)
        config = dataclasses.replace(config, optim=optim)
    begun = Finetune.of(stored, lora)
    recipe = Recipe(stored.config.model, params["schedule"], params["diffusion"], config, begun)
    pretrain(Job(params["data"], recipe, params["launch"], params["tracking"]), places)


def say_truncated(rows: RowDataset) -> None:
    """Print how many answers are cut."""
    num = getattr(rows.layout, "num_truncated", 0)
    if num:
        longest = f"data.row_length = {rows.row_length} tokens"
        print(f"{num:,} of {len(rows):,} tasks are longer than {longest}: their answers are cut at the end")


if __name__ == "__main__":
    main()
