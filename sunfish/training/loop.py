"""Pretraining: one step, and many; log, sample, checkpoint, resume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor

from sunfish.model.denoiser import Denoiser
from sunfish.problems import Problem
from sunfish.progress import Progress
from sunfish.schedule import NoiseLaw
from sunfish.sections.diffusion import Section as Diffusion
from sunfish.sections.model import Section as Model
from sunfish.sections.pretrain import Section as Pretrain
from sunfish.training.build import LawKeeper, build_denoiser
from sunfish.training.checkpoint import load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from sunfish.training.draws import draw_step
from sunfish.training.ema import Ema
from sunfish.training.log import RunLog
from sunfish.training.optim import lr_share, make_optimizers, set_lr, split_parameters
from sunfish.training.step import step_loss
from sunfish.training.stopping import Stopped, StopRequest

ReadBatch = Callable[[int], np.ndarray]  # step -> ids, (batch_rows, pos)


@dataclass
class Run:
    """A training run in memory: everything a checkpoint holds."""

    fabric: Fabric
    model: Any  # the denoiser as Fabric wrapped it
    optimizers: dict[str, Any]
    ema: Ema
    keeper: LawKeeper
    diffusion: Diffusion
    pretrain: Pretrain
    step: int = 0

    @property
    def law(self) -> NoiseLaw:
        """Return the noise law as it stands."""
        return self.keeper.law


@dataclass(frozen=True)
class Record:
    """What one step tells."""

    loss: float  # mean over unknown positions: nats per token (ce) or mean square (eps_mse)
    grad_norm: float
    lr_share: float


def start_run(fabric: Fabric, model: Model, diffusion: Diffusion, pretrain: Pretrain, vocab_size: int) -> Run:
    """Return a run at step 0."""
    denoiser = build_denoiser(model, diffusion, vocab_size, pretrain.seed)
    denoiser.transformer.activation_checkpointing = pretrain.activation_checkpointing
    optimizers = make_optimizers(denoiser, pretrain.optim)
    wrapped, *ready = fabric.setup(denoiser, *optimizers.values())
    for method in ("predict", "predict_logits", "embed"):
        wrapped.mark_forward_method(method)
    return Run(
        fabric, wrapped, dict(zip(optimizers, ready, strict=True)), Ema(wrapped.module, pretrain.ema_decay),
        LawKeeper(diffusion.law), diffusion, pretrain,
    )  # fmt: skip


def train_step(run: Run, ids: np.ndarray) -> Record:
    """Take one step on the batch `ids`, (batch_rows, pos): accumulate, clip, update, average, watch the noise law."""
    section, optim = run.pretrain, run.pretrain.optim
    num_micro = section.batch_rows // section.micro_rows
    draws = draw_step(run.diffusion.known, section.seed, run.step, section.batch_rows, section.micro_rows, ids.shape[1])
    losses: list[Tensor] = []
    for index in range(num_micro):
        micro = draws.micro(index, section.micro_rows)
        rows = ids[index * section.micro_rows : (index + 1) * section.micro_rows]
        with run.fabric.no_backward_sync(run.model, enabled=index < num_micro - 1):
            with run.fabric.autocast():
                loss = step_loss(run.model, run.diffusion, run.law, rows, micro)
            run.fabric.backward(loss.total / num_micro)
        losses.append(loss.per_example)
    grad_norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), optim.clip_norm)
    share = lr_share(run.step, section.steps, optim)
    set_lr(run.optimizers, optim, share)
    for optimizer in run.optimizers.values():
        optimizer.step()
        optimizer.zero_grad()
    run.ema.update(run.step)
    per_example = torch.cat(losses).double().cpu().numpy()
    _watch_law(run, draws.times, per_example, draws.known)
    run.step += 1
    unknown = (~draws.known).mean(axis=1)
    return Record(float((per_example * unknown).sum() / unknown.sum()), float(grad_norm), share)


def _watch_law(run: Run, times: np.ndarray, per_example: np.ndarray, known: np.ndarray) -> None:
    """Show a learned law the rows without known positions: they are what free sampling meets."""
    learned = run.keeper.learned
    free = ~known.any(axis=1)
    if learned is None or not free.any():
        return
    learned.observe(learned.law.logsnr_at(times[free]), per_example[free])
    if (run.step + 1) % run.keeper.refit_every == 0:
        learned.refit()


def train(run: Run, read_batch: ReadBatch, run_dir: Path, log: RunLog, sample: Callable[[Denoiser, NoiseLaw], str]) -> None:
    """Train until the last step, from wherever `run` stands; log, sample and save at the configured steps.

    Raises:
        Problem: the loss or the gradient is no longer finite.
        Stopped: SIGTERM or SIGINT came; all is saved.
    """
    section = run.pretrain
    with Progress("pretrain", section.steps, "steps", done=run.step) as progress, StopRequest() as stop:
        started, first = time.monotonic(), run.step
        while run.step < section.steps:
            record = train_step(run, read_batch(run.step))
            _require_finite(record, run.step)
            progress.add(1, f"loss {record.loss:.3f}")
            if run.step % section.log_every == 0 or run.step == section.steps:
                rate = (run.step - first) * section.batch_rows / (time.monotonic() - started)
                log.write(run.step, record.loss, record.grad_norm, record.lr_share * section.optim.adamw_lr, rate)
            if run.step % section.sample_every == 0:
                with run.ema.swapped_in():
                    text = sample(run.model.module, run.law)
                log.write_sample(run.step, text)
                progress.say(f"step {run.step}: {text}")
            if run.step % section.checkpoint_every == 0 or run.step == section.steps or stop.came:
                save(run, run_dir)
            if stop.came and run.step < section.steps:
                progress.say(f"{stop.came.name}: saved at step {run.step:,}; the same command carries on from there")
                raise Stopped


def _require_finite(record: Record, step: int) -> None:
    if not (math.isfinite(record.loss) and math.isfinite(record.grad_norm)):
        raise Problem(
            f"step {step}: the loss is {record.loss} and the gradient norm {record.grad_norm}. The last checkpoint is kept. Try a lower "
            "pretrain.optim.muon_lr and adamw_lr, a longer warmup_steps, or launch.precision = 32-true"
        )


def save(run: Run, run_dir: Path) -> None:
    """Write a checkpoint of everything the next step depends on."""
    names = dict(zip(("muon", "adamw"), map(list, split_parameters(run.model.module)), strict=True))
    groups = {
        "model": dict(run.model.module.state_dict()),
        "ema": run.ema.average,
        **{key: optimizer_tensors(optimizer, names[key]) for key, optimizer in run.optimizers.items()},
    }
    learned = run.keeper.learned
    state = {"law": learned.state() if learned else None, "torch": torch.__version__}
    save_checkpoint(run_dir, run.step, groups, state, run.pretrain.keep_checkpoints)


def resume(run: Run, run_dir: Path) -> bool:
    """Put `run` where its last checkpoint stood; say whether there was one."""
    found = load_checkpoint(run_dir)
    if found is None:
        return False
    groups, state = found
    names = dict(zip(("muon", "adamw"), map(list, split_parameters(run.model.module)), strict=True))
    run.model.module.load_state_dict(groups["model"])
    run.ema.restore(groups["ema"])
    for key, optimizer in run.optimizers.items():
        restore_optimizer(optimizer, names[key], groups[key])
    if run.keeper.learned and state["law"]:
        run.keeper.learned.restore(state["law"])
    run.step = state["step"]
    return True
