"""A training run in memory, and one step of it. The same code for one process and for many."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor

from sunfish.config.schema.diffusion import DiffusionConfig
from sunfish.config.schema.model import ModelConfig
from sunfish.config.schema.pretrain import PretrainConfig
from sunfish.diffusion.conditioning import StepRandomness, draw_randomness
from sunfish.diffusion.schedules import ScheduleConfig, TrainingSchedule
from sunfish.model.denoiser import Denoiser
from sunfish.training.build import build_denoiser
from sunfish.training.ema import Ema
from sunfish.training.finetune import Finetune
from sunfish.training.loss import DiffusionLoss
from sunfish.training.optim import Optimizers, clip_gradients, lr_share, make_optimizers
from sunfish.training.parallel import gather, multiplies_in_bf16, part_of


@dataclass(frozen=True)
class Recipe:
    """What decides a training beside its data."""

    model: ModelConfig
    schedule: ScheduleConfig
    diffusion: DiffusionConfig
    pretrain: PretrainConfig
    finetune: Finetune | None = None  # None: a pretraining, from drawn weights


@dataclass
class Run:
    """A training run in memory: everything that a checkpoint holds."""

    fabric: Fabric
    model: Any  # DiffusionLoss, as Fabric wrapped it
    optimizers: Optimizers
    ema: Ema
    schedule: TrainingSchedule
    recipe: Recipe
    step: int = 0
    skipped: int = 0  # steps without an update, in a row

    @property
    def denoiser(self) -> Denoiser:
        """Return the denoiser inside the wrappers."""
        denoiser: Denoiser = self.model.module.denoiser
        return denoiser


@dataclass(frozen=True)
class Record:
    """What one step tells; the same on every process."""

    loss: float  # mean over unknown positions: nats (ce, elbo) or a mean square (eps_mse, x0_mse)
    check_nats: float  # per token, of the causal pass; 0 where the check is not learned
    grad_norm: float
    lr_share: float  # of the peak learning rates
    stop: bool = False  # some process was asked to stop

    @property
    def is_finite(self) -> bool:
        """Say whether the step could be taken."""
        return math.isfinite(self.loss) and math.isfinite(self.check_nats) and math.isfinite(self.grad_norm)


def start_run(
    fabric: Fabric,
    recipe: Recipe,
    vocab_size: int,
    compiled: bool = False,
    separator_id: int | None = None,
    task_end_id: int | None = None,
) -> Run:
    """Return a run at step 0; the last two are `DiffusionLoss`'s."""
    pretrain = recipe.pretrain
    if recipe.finetune is None:
        schedule = recipe.schedule.start()
        denoiser = build_denoiser(recipe.model, recipe.diffusion, vocab_size, pretrain.seed)
    else:
        torch.manual_seed(pretrain.seed)  # PEFT draws an adapter's weights
        denoiser, schedule = recipe.finetune.start(recipe.diffusion)
    block: Any
    for block in denoiser.transformer.blocks:
        block.activation_checkpointing = pretrain.activation_checkpointing
        if compiled:
            block.compile()
    wrapped = fabric.setup(DiffusionLoss(denoiser, recipe.diffusion, separator_id, task_end_id))
    ready = wrapped.module.denoiser
    optimizers = make_optimizers(ready, pretrain.optim, in_bf16=multiplies_in_bf16(fabric))
    return Run(fabric, wrapped, optimizers, Ema(ready, pretrain.ema_decay), schedule, recipe)


def train_step(run: Run, ids: np.ndarray, stop: bool = False) -> Record:
    """Take one step on this process's rows of a batch, (rows, pos): accumulate, clip, update, average.

    Where the loss or the gradient is not finite, nothing is updated and `run.skipped` counts up.
    """
    pretrain, length = run.recipe.pretrain, ids.shape[1]
    randomness = draw_randomness(run.recipe.diffusion, pretrain.seed, run.step, pretrain.batch_rows, length)
    torch.manual_seed(randomness.noise_seed + run.fabric.global_rank)  # dropout draws as if never resumed
    mine = backward(run, ids, randomness.part(part_of(run.fabric, pretrain.batch_rows)))
    grad_norm = clip_gradients(run.denoiser, pretrain.optim.clip_norm)
    everyone = gather(run.fabric, torch.cat((mine.flatten(), mine.new_tensor([float(stop)]))))
    values = everyone[:, :-1].reshape(-1, 2 * length + 1)
    observed, known, check = values[:, :length], values[:, length:-1] > 0, values[:, -1]
    share = lr_share(run.step, pretrain.steps, pretrain.optim)
    loss = float(observed[~known].mean())
    record = Record(loss, float(check.mean()), grad_norm, share, bool(everyone[:, -1].any()))
    if record.is_finite:
        run.optimizers.step(share)
        run.ema.update(run.step)
        observe(run, randomness, observed)
    run.optimizers.zero_grad()
    run.skipped = 0 if record.is_finite else run.skipped + 1
    run.step += 1
    return record


def backward(run: Run, ids: np.ndarray, randomness: StepRandomness) -> Tensor:
    """Accumulate the gradient over micro-batches, synchronised with the last.

    Returns each row's observed losses, which positions are known, and its check's nats, (rows, 2 pos + 1).
    """
    num_micro = count_micro(len(ids), run.recipe.pretrain.micro_rows)
    each, seen, schedule = len(ids) // num_micro, [], run.schedule.current
    for index in range(num_micro):
        rows = slice(index * each, (index + 1) * each)
        micro = randomness.part(rows)
        logsnr = schedule.logsnr_at(micro.times)
        density = np.where(micro.is_intermediate, schedule.density(logsnr), 0.0)
        with run.fabric.no_backward_sync(run.model, enabled=index < num_micro - 1):
            loss = run.model(ids[rows], micro, logsnr, density)
            run.fabric.backward(loss.total / num_micro)
        seen.append(torch.cat((loss.observed, loss.known, loss.check_nats[:, None]), dim=1))
    return torch.cat(seen)


def count_micro(rows: int, most: int) -> int:
    """Return into how many equal parts of at most `most` rows a process cuts its rows."""
    return next(parts for parts in range(-(-rows // most), rows + 1) if rows % parts == 0)


def observe(run: Run, randomness: StepRandomness, losses: np.ndarray) -> None:
    """Show the noise schedule the rows of which nothing is known: that is what free sampling meets."""
    rows = randomness.is_intermediate & randomness.is_unconditional
    if rows.any():
        levels = run.schedule.current.logsnr_at(randomness.times[rows])
        run.schedule.observe(np.repeat(levels, losses.shape[1]), losses[rows].ravel())
    run.schedule.end_step(run.step)
