"""Atomic save, exact resume: a folder of safetensors and JSON, written aside and renamed, `LATEST` replaced last.

Randomness needs no state: every draw follows from (seed, step).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sunfish.files import read_json, replacing, write_json, write_text
from sunfish.problems import Problem

Groups = dict[str, dict[str, Tensor]]  # "model", "ema", "muon", "adamw" -> tensors by name


def save_checkpoint(run_dir: Path, step: int, groups: Groups, state: dict[str, Any], keep: int) -> None:
    """Write step-N/ whole, point LATEST at it, and drop all but the last `keep`."""
    name = f"step-{step:08d}"
    with replacing(run_dir / name) as folder:
        folder.mkdir()
        for group, tensors in groups.items():
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / f"{group}.safetensors")
        write_json(folder / "state.json", {"step": step, **state})
    write_text(run_dir / "LATEST", name)
    for old in sorted(run_dir.glob("step-*"))[:-keep]:
        shutil.rmtree(old)


def load_checkpoint(run_dir: Path) -> tuple[Groups, dict[str, Any]] | None:
    """Return the latest checkpoint's tensors and state, or None if the run has none.

    Raises:
        Problem: LATEST names a checkpoint that cannot be read.
    """
    latest = run_dir / "LATEST"
    if not latest.is_file():
        return None
    folder = run_dir / latest.read_text().strip()
    try:
        groups = {path.stem: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
    except (SafetensorError, OSError) as error:
        raise Problem(f"{folder}: cannot be read ({error}); remove {run_dir} to train from the start") from error
    return groups, read_json(folder / "state.json")


def drop_checkpoints(run_dir: Path) -> None:
    """Forget a finished run's checkpoints, so that training again means training anew; the log stays."""
    (run_dir / "LATEST").unlink(missing_ok=True)
    for folder in run_dir.glob("step-*"):
        shutil.rmtree(folder)


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """Return an optimiser's state as flat tensors: `exp_avg/blocks.0...`."""
    states = optimizer.state_dict()["state"]
    return {f"{key}/{names[i]}": tensor for i, values in states.items() for key, tensor in values.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, names: list[str], tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` took."""
    index = {name: i for i, name in enumerate(names)}
    state: dict[int, dict[str, Tensor]] = {}
    for full, tensor in tensors.items():
        key, name = full.split("/", 1)
        state.setdefault(index[name], {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
