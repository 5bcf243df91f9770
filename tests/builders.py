"""What tests share: a thimble-sized configuration, shards, trainings and exported folders made of it."""

from __future__ import annotations

import dataclasses
import importlib
import shutil
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from safetensors.torch import load_file

from sunfish.config.compose import check, compose
from sunfish.config.schema.diffusion import DiffusionConfig, KnownConfig
from sunfish.config.schema.model import ModelConfig
from sunfish.config.schema.sampler import CheckConfig, SamplerConfig
from sunfish.config.schema.tracking import TrackingConfig
from sunfish.diffusion import process
from sunfish.model.denoiser import Denoiser
from sunfish.model.initial import init_weights
from sunfish.sharding.shard import Result, shard
from sunfish.text.batches import RowDataset
from sunfish.text.shards import Shards
from sunfish.training.checkpoint import Checkpoints
from sunfish.training.cost import Meter
from sunfish.training.log import RunLog
from sunfish.training.loop import Observers
from sunfish.training.parallel import make_fabric
from sunfish.training.run import Job, Places, pretrain
from sunfish.training.train_step import Recipe, Run, start_run

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]  # x_t, logsnr, x_0_prev, known

ROOT = Path(__file__).parent.parent
REAL_DATA = ROOT.parent / "shared" / "data"
ROW_LENGTH = 96  # of the thimble's batches
OFF = TrackingConfig(enabled=False, experiment="test", uri=None, loggers=())

THIMBLE = [
    "data.sources.stories.num_documents=600",
    "data.shard_tokens=8_000",
    "data.tokenizer.vocab_size=512",
    "data.row_length=96",
    "data.held_out_share=0.1",
    "model.width=32",
    "model.num_heads=2",
    "model.emb_dim=16",
    "model.cond_dim=8",
    "sampler.steps=3",
    "sampler.check.steps=2",
    "sampler.check.max_rounds=4",
    "pretrain.steps=12",
    "pretrain.batch_rows=8",
    "pretrain.micro_rows=4",
    "pretrain.optim.warmup_steps=2",
    "pretrain.log_every=2",
    "pretrain.sample_every=6",
    "pretrain.checkpoint_every=4",
    "validate.overfit_eps_mse=10",
    "validate.overfit_ce=10",
    "validate.overfit_steps=20",
    "validate.mini_run_steps=30",
    "evaluate.bound_rows=16",
    "evaluate.bound_levels=2",
    "evaluate.num_samples=8",
    "evaluate.compared_samples=4",
    "evaluate.infill_rows=8",
    "evaluate.speed_runs=1",
    "evaluate.shown_samples=2",
    "export.parity_texts=4",
    "export.parity_texts_ddpm=0",
    "export.quality_rows=4",
    "launch.accelerator=cpu",
    "tracking=off",
]

SMALL = ModelConfig(
    name="small", num_layers=2, num_heads=2, width=32, emb_dim=16, cond_dim=8, conv_window=2, tied_head=True,
    input_posterior=True, output_prior=True, length_conditioning=True,
)  # fmt: skip
NOTHING_KNOWN = KnownConfig(
    conditioned_fraction=0.0, prefix=1.0, suffix=0.0, span=0.0, scattered=0.0, pure_noise_fraction=0.0
)
CE = DiffusionConfig(objective="ce", check_weight=1.0, self_conditioning=0.5, known=NOTHING_KNOWN)
PLAIN = SamplerConfig(
    name="ddim", steps=4, eta=0.0, churn=0.0, temperature=1.0, confidence_threshold=1.0, epsilon_cutoff=0.0,
    check=None,
)  # fmt: skip
CHECKED = dataclasses.replace(
    PLAIN, check=CheckConfig(epsilon=0.8, steps=2, restart_time=0.6, max_rounds=None)
)


def composed(folder: Path, *overrides: str) -> dict[str, Any]:
    """Return the sections of a thimble-sized params.yaml, which is written into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    compose([*THIMBLE, *overrides], folder / "params.yaml")
    return check(folder / "params.yaml")


def make_shards(params: dict[str, Any], folder: Path) -> Result:
    """Shard the configured corpus here, in this process."""
    alone = dataclasses.replace(params["launch"].sharding, workers=1)
    result = shard(params["data"], alone, folder, folder.parent / "runs")
    shutil.rmtree(result.work.folder)
    return result


def make_denoiser(vocab_size: int = 11, jitter: float = 0.0, **changes: Any) -> Denoiser:
    """Return a small denoiser; with `jitter` no weight is zero, as if it had been trained."""
    denoiser = Denoiser(dataclasses.replace(SMALL, **changes), vocab_size)
    init_weights(denoiser, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(jitter * torch.randn(parameter.shape, generator=generator))
    return denoiser.eval()


def noisy(denoiser: Denoiser, batch: int = 2, length: int = 6) -> Inputs:
    """Return what a denoiser reads: rows noised at levels from -3 to 1, and no position known."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, denoiser.vocab_size, (batch, length), generator=generator)
    x_0, logsnr = denoiser.embed(ids).detach(), torch.linspace(-3, 1, batch)
    x_t = process.add_noise(x_0, torch.randn(x_0.shape, generator=generator), logsnr)
    x_0_prev = torch.randn(x_t.shape, generator=generator)
    return x_t, logsnr, x_0_prev, torch.zeros(batch, length, dtype=torch.bool)


def recipe_of(params: dict[str, Any], **changes: Any) -> Recipe:
    """Return the configured training, with some keys of `pretrain` changed."""
    section = dataclasses.replace(params["pretrain"], **changes)
    return Recipe(params["model"], params["schedule"], params["diffusion"], section)


def start(params: dict[str, Any], shards: Shards, **changes: Any) -> Run:
    """Return a run at step 0."""
    return start_run(make_fabric(params["launch"]), recipe_of(params, **changes), shards.vocab_size)


def batch(params: dict[str, Any], shards: Shards, num: int = 8) -> np.ndarray:
    """Return the first training rows, (num, ROW_LENGTH), filled up behind their ends."""
    ids = RowDataset(shards, "train", params["data"]).read(np.arange(num))
    return np.pad(ids, ((0, 0), (0, ROW_LENGTH - ids.shape[1])), constant_values=shards.end_id)


def job_of(params: dict[str, Any], **changes: Any) -> Job:
    """Return the configured pretraining."""
    return Job(params["data"], recipe_of(params, **changes), params["launch"], OFF)


def places(folder: Path, shards: Shards) -> Places:
    """Return where a pretraining in `folder` reads and writes."""
    return Places(
        shards.folder, folder / "denoiser", folder / "metrics.json", folder / "curve.csv", folder / "runs"
    )


def run_all(params: dict[str, Any], folder: Path, shards: Shards, **changes: Any) -> dict[str, torch.Tensor]:
    """Pretrain and return the averaged weights."""
    pretrain(job_of(params, **changes), places(folder, shards))
    return load_file(folder / "denoiser" / "model.safetensors")


def checkpoints_of(run: Run, folder: Path, beside: bool = False) -> Checkpoints:
    """Return the checkpoints of a run, of which two are kept."""
    return Checkpoints(run.fabric, folder, keep=2, beside=beside)


def observers_of(params: dict[str, Any], run: Run, shards: Shards, folder: Path, log: RunLog) -> Observers:
    """Return who hears of a training; its samples are empty."""
    meter = Meter(params["model"], params["diffusion"], shards.vocab_size, torch.device("cpu"), 1e11)
    return Observers(log, meter, checkpoints_of(run, folder), lambda *_: "")


def run_stage(name: str, **paths: Path | str) -> None:
    """Run a stage's script in this process, `--name value` for each path."""
    arguments = [str(part) for key, value in paths.items() for part in (f"--{key}", value)]
    with mock.patch.object(sys, "argv", [f"stages.{name}", *arguments]):
        importlib.import_module(f"stages.{name}").main()
