"""Atomic, sharded, elastic checkpoints: a folder of safetensors and JSON, written aside and renamed, `LATEST` replaced last.

Every process writes its shards; any number of processes reads them. Randomness needs no state: every draw follows from (seed, step).
"""

from __future__ import annotations

import logging
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from lightning.fabric import Fabric
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sunfish.files import read_json, write_json, write_text
from sunfish.problems import Problem
from sunfish.training.parallel import on_rank_zero

Tensors = dict[str, Tensor]  # "model/...", "ema/...", "muon/...", "adamw/exp_avg/..." by name; a shard of each, or all of it
logging.getLogger("torch.distributed.checkpoint").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")  # one process is no mistake


def save_checkpoint(fabric: Fabric, run_dir: Path, step: int, tensors: Tensors, state: dict[str, Any], keep: int) -> None:
    """Write step-N/ whole, point LATEST at it, and drop all but the last `keep`; every process must call it.

    Raises:
        Problem: the disk is full or the folder cannot be written; earlier checkpoints are as they were.
    """
    name = f"step-{step:08d}"
    aside = run_dir / f".{name}.tmp"

    def begin() -> None:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)

    def finish() -> None:
        sizes = {path.name: path.stat().st_size for path in sorted(aside.glob("*.safetensors"))}
        write_json(aside / "state.json", {"step": step, **state, "bytes": sizes})
        shutil.rmtree(run_dir / name, ignore_errors=True)
        aside.rename(run_dir / name)
        write_text(run_dir / "LATEST", name)
        for old in sorted(run_dir.glob("step-*"))[:-keep]:
            shutil.rmtree(old)

    try:
        on_rank_zero(fabric, begin)
        dcp.save(
            dict(tensors), storage_writer=dcp.HuggingFaceStorageWriter(str(aside), save_distributed=True), no_dist=fabric.world_size == 1
        )
        on_rank_zero(fabric, finish)
    except (OSError, SafetensorError, dcp.api.CheckpointException) as error:
        shutil.rmtree(aside, ignore_errors=True)
        reason = str(error).strip().splitlines()[-1]
        raise Problem(
            f"{run_dir / name}: cannot be written ({reason}); make room and run it again: the checkpoint before is kept"
        ) from error


def find_checkpoint(run_dir: Path, pointer: str = "LATEST") -> Path | None:
    """Return the newest checkpoint that is whole, or None if the run has none; of damaged ones it says so and takes the one before.

    Raises:
        Problem: there are checkpoints, but none is whole.
    """
    if not (run_dir / pointer).is_file():
        return None
    found = sorted(run_dir.glob("step-*"), reverse=True)
    for folder in found:
        reason = damage(folder)
        if reason is None:
            return folder
        print(f"{folder}: {reason}; taking the one before", file=sys.stderr)
    raise Problem(f"{run_dir}: none of its checkpoints can be read; remove the folder to train from the start")


def damage(folder: Path) -> str | None:
    """Say what is wrong with a checkpoint, or None: a missing file, another size than was written, an unreadable header."""
    try:
        for name, size in read_json(folder / "state.json")["bytes"].items():
            if (folder / name).stat().st_size != size:
                return f"{name} is cut off or altered"
            with safe_open(folder / name, "pt"):
                pass
    except (OSError, Problem, KeyError, SafetensorError) as error:
        return f"cannot be read ({error})"
    return None


def load_tensors(fabric: Fabric, folder: Path, into: Tensors) -> None:
    """Fill `into` in place, each process its shards, whoever wrote them; every process must call it.

    Raises:
        Problem: the checkpoint holds other tensors.
    """
    try:
        dcp.load(dict(into), storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=fabric.world_size == 1)
    except (dcp.api.CheckpointException, RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise Problem(
            f"{folder}: does not fit this model or this version ({reason}); remove {folder.parent} to train from the start"
        ) from error


def finish_run(run_dir: Path) -> None:
    """Keep a finished run's last checkpoint to be extended, no longer to be resumed: training again means training anew."""
    (run_dir / "LATEST").replace(run_dir / "FINAL")
    for folder in sorted(run_dir.glob("step-*"))[:-1]:
        shutil.rmtree(folder)
