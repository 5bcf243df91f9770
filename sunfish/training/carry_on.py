"""Where a run begins: at step 0, at its last checkpoint, or at the end of a finished run that it extends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sunfish.errors import UserError
from sunfish.files import read_json, write_json
from sunfish.training.loop import resume
from sunfish.training.train_step import Run


def carry_on(run: Run, runs: Path, name: str, params: dict[str, Any]) -> None:
    """Take over the last checkpoint of this run, or of the finished one that it extends.

    Raises:
        UserError: the run to extend is not there, is longer already, or had another configuration.
    """
    extended = run.recipe.pretrain.extends
    if resume(run, runs / name):
        where = runs / name
    elif extended is not None:
        where = runs / extended
        require_extendable(where, params)
        if not resume(run, where, "FINAL"):
            says = f"pretrain.extends = '{extended}': {where} holds no finished run"
            raise UserError(f"{says}; `ls {runs}` shows those there are")
    else:
        where = None
    if run.fabric.is_global_zero:
        write_json(runs / name / "params.json", params)
        if where:
            print(f"{where}: carrying on from step {run.step:,}")


def require_extendable(folder: Path, params: dict[str, Any]) -> None:
    """Refuse to extend a run whose configuration differs in anything but fewer steps."""
    before = read_json(folder / "params.json") if (folder / "params.json").is_file() else params
    for key, value in json.loads(json.dumps(params)).items():
        if key not in ("pretrain.steps", "pretrain.extends") and before.get(key) != value:
            says = f"pretrain.extends: {folder.name} had {key} = {before.get(key)}, not {value}"
            raise UserError(f"{says}; only pretrain.steps may differ")
    if before["pretrain.steps"] >= params["pretrain.steps"] and before is not params:
        steps = f"pretrain.steps = {params['pretrain.steps']}"
        raise UserError(f"{steps}: {folder.name} has {before['pretrain.steps']} already; ask for more")
