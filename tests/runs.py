"""Trainings of a thimble's size."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from sunfish.config.schema.tracking import TrackingConfig
from sunfish.text.batches import RowDataset
from sunfish.text.shards import Shards
from sunfish.training import loop
from sunfish.training.checkpoint import Checkpoints
from sunfish.training.cost import Meter
from sunfish.training.parallel import make_fabric
from sunfish.training.run import Job, Places, pretrain

OFF = TrackingConfig(enabled=False, experiment="test", uri=None)


def start(params: dict, shards: Shards, **changes: Any) -> loop.Run:
    section = dataclasses.replace(params["pretrain"], **changes)
    return loop.start_run(
        make_fabric(params["launch"]), params["model"], params["diffusion"], section, shards.vocab_size
    )


def batch(params: dict, shards: Shards, num: int = 8) -> np.ndarray:
    ids = RowDataset(shards, "train", params["data"]).read(np.arange(num))
    return np.pad(ids, ((0, 0), (0, 96 - ids.shape[1])), constant_values=shards.end_id)


def checkpoints_of(run: loop.Run, folder: Path, beside: bool = False) -> Checkpoints:
    return Checkpoints(run.fabric, folder, keep=2, beside=beside)


def places(folder: Path, shards: Shards) -> Places:
    return Places(
        shards.folder, folder / "denoiser", folder / "metrics.json", folder / "curve.csv", folder / "runs"
    )


def job_of(params: dict, **changes: Any) -> Job:
    names = ("data", "model", "diffusion", "pretrain", "launch")
    section = dataclasses.replace(params["pretrain"], **changes)
    return Job(**{**{name: params[name] for name in names}, "pretrain": section, "tracking": OFF})


def run_all(params: dict, folder: Path, shards: Shards, **changes: Any) -> dict[str, torch.Tensor]:
    pretrain(job_of(params, **changes), places(folder, shards))
    return load_file(folder / "denoiser" / "model.safetensors")


def meter(params: dict, shards: Shards) -> Meter:
    return Meter(params["model"], shards.vocab_size, 0.5, 2, torch.device("cpu"), 1e11)
