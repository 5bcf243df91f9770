"""Atomic, sharded, elastic checkpoints: a folder of safetensors and JSON, written aside and renamed, `LATEST`
replaced last.

Every process writes its shards; any number of processes reads them. Randomness needs no state: every draw
follows from (seed, step)."""

from __future__ import annotations

import logging
import shutil
import sys
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from lightning.fabric import Fabric
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from sunfish.digests import check_digests, write_digests
from sunfish.errors import UserError
from sunfish.files import write_json, write_text
from sunfish.training.parallel import gather

# "model/...", "ema/...", "muon/...", "adamw/exp_avg/..." by name; a shard of each, or all of it
Tensors = dict[str, Tensor]
UNWRITABLE = OSError, UserError, SafetensorError, dcp.api.CheckpointException
logging.getLogger("torch.distributed.checkpoint").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable")  # one process is no mistake


class Checkpoints:
    """A run's checkpoints: step-N/ whole, then LATEST points at it, then all but the last `keep` go.

    With `beside`, a checkpoint is copied to the host's memory and written while the training goes on, one at
    a time. Every process must make the same calls."""

    def __init__(self, fabric: Fabric, run_dir: Path, keep: int, beside: bool) -> None:
        self.fabric, self.run_dir, self.keep = fabric, run_dir, keep
        self.stager = make_stager(fabric) if beside else None
        # of its own: the training has the other one
        self.group = dist.new_group(backend="gloo") if beside and fabric.world_size > 1 else None
        self.writer = ThreadPoolExecutor(1, "checkpoint")
        self.under_way: tuple[Path, Future[None]] | None = None
        if fabric.is_global_zero:
            for left in run_dir.glob(".step-*.tmp"):
                shutil.rmtree(left)
        fabric.barrier()

    def save(self, step: int, tensors: Tensors, state: dict[str, Any]) -> None:
        """Write a checkpoint, or with `beside` begin to.

        Raises:
            UserError: this checkpoint, or with `beside` the one before, could not be written; earlier ones
            are as they were.
        """
        self.wait()
        folder = self.run_dir / f"step-{step:08d}"
        taken: Any = self.stager.stage(dict(tensors)) if self.stager else dict(tensors)
        self.under_way = folder, self.writer.submit(self._write, folder, taken, {"step": step, **state})
        if self.stager is None:
            self.wait()

    def wait(self) -> None:
        """Wait until the checkpoint under way is written.

        Raises:
            UserError: it could not be, on this process or another; earlier ones are as they were.
        """
        if self.under_way is None:
            return
        (folder, written), self.under_way = self.under_way, None
        error = written.exception()
        if error and not isinstance(error, UNWRITABLE):
            raise error
        if gather(self.fabric, torch.tensor([float(error is not None)], device=self.fabric.device)).any():
            reason = str(error or "another process failed").strip().splitlines()[-1]
            advice = "make room and run it again: the checkpoint before is kept"
            raise UserError(f"{folder}: cannot be written ({reason}); {advice}") from error

    def close(self) -> None:
        """Wait as `wait` does, and give the host's memory back."""
        self.wait()
        self.writer.shutdown()
        if self.stager:
            self.stager.close()

    def _write(self, folder: Path, tensors: dict[str, Any], state: dict[str, Any]) -> None:
        aside = folder.with_name(f".{folder.name}.tmp")
        try:
            aside.mkdir(parents=True, exist_ok=True)
            storage = dcp.HuggingFaceStorageWriter(str(aside), save_distributed=True)
            alone = self.fabric.world_size == 1
            dcp.save(tensors, storage_writer=storage, process_group=self.group, no_dist=alone)
            if self.fabric.is_global_zero:
                self._finish(aside, folder, state)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise

    def _finish(self, aside: Path, folder: Path, state: dict[str, Any]) -> None:
        write_json(aside / "state.json", state)
        write_digests(aside)
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
        write_text(self.run_dir / "LATEST", folder.name)
        for old in sorted(self.run_dir.glob("step-*"))[: -self.keep]:
            shutil.rmtree(old)


def make_stager(fabric: Fabric) -> DefaultStager:
    """Return what copies tensors to the host's memory: from a GPU through pinned pages."""
    gpu = fabric.device.type == "cuda"
    return DefaultStager(StagingOptions(gpu, False, False, use_non_blocking_copy=gpu))


def find_checkpoint(run_dir: Path, pointer: str = "LATEST") -> Path | None:
    """Return the newest checkpoint that is whole, or None if the run has none; say which are damaged.

    Raises:
        UserError: there are checkpoints, but none is whole.
    """
    if not (run_dir / pointer).is_file():
        return None
    found = sorted(run_dir.glob("step-*"), reverse=True)
    for folder in found:
        reason = damage(folder)
        if reason is None:
            return folder
        print(f"{reason}; taking the one before {folder.name}", file=sys.stderr)
    raise UserError(
        f"{run_dir}: none of its checkpoints can be read; remove the folder to train from the start"
    )


def damage(folder: Path) -> str | None:
    """Say what is wrong with a checkpoint, or None: a missing or altered file."""
    try:
        check_digests(folder, None, "it cannot be read")
    except (OSError, UserError) as error:
        return str(error)
    return None


def load_tensors(fabric: Fabric, folder: Path, into: Tensors) -> None:
    """Fill `into` in place, each process its shards, whoever wrote them; every process must call it.

    Raises:
        UserError: the checkpoint holds other tensors.
    """
    reader = dcp.HuggingFaceStorageReader(str(folder))
    try:
        dcp.load(dict(into), storage_reader=reader, no_dist=fabric.world_size == 1)
    except (dcp.api.CheckpointException, RuntimeError, ValueError, AssertionError) as error:
        reason = f"does not fit this model or this version ({str(error).strip().splitlines()[-1]})"
        raise UserError(f"{folder}: {reason}; remove {folder.parent} to train from the start") from error


def finish_run(run_dir: Path) -> None:
    """Keep a finished run's last checkpoint to be extended, no longer to be resumed."""
    (run_dir / "LATEST").replace(run_dir / "FINAL")
    for folder in sorted(run_dir.glob("step-*"))[:-1]:
        shutil.rmtree(folder)
