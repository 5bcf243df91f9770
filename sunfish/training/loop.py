"""Many steps: log, sample, checkpoint, resume."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sunfish.diffusion.schedule import NoiseSchedule
from sunfish.errors import UserError
from sunfish.model.denoiser import Denoiser
from sunfish.printable import printable
from sunfish.progress import Progress
from sunfish.training.checkpoint import Checkpoints, find_checkpoint
from sunfish.training.cost import Meter
from sunfish.training.log import RunLog
from sunfish.training.parallel import reshard
from sunfish.training.state import adamw_steps, restore, run_tensors
from sunfish.training.stopping import Stopped, StopRequest
from sunfish.training.train_step import Record, Run, train_step

ReadBatch = Callable[[int], np.ndarray]  # step -> this process's rows of its batch, (rows, pos)
WriteText = Callable[[Denoiser, NoiseSchedule], str]
SPIKE_WINDOW = 100  # losses that a spike is held against
SPIKE_SIGMAS = 6.0


@dataclass(frozen=True)
class Observers:
    """Who hears of a training: its log, its meter of speed, its checkpoints; and how it writes a sample."""

    log: RunLog
    meter: Meter
    checkpoints: Checkpoints
    write_text: WriteText


def train(run: Run, read_batch: ReadBatch, observers: Observers) -> None:
    """Train until the last step, from wherever `run` stands; log, sample and save at the configured steps.

    Raises:
        UserError: the loss or the gradient was not finite too many steps in a row, or the disk is full.
        Stopped: SIGTERM or SIGINT came to some process; all is saved.
    """
    config, zero, checkpoints = run.recipe.pretrain, run.fabric.is_global_zero, observers.checkpoints
    recent: deque[float] = deque(maxlen=SPIKE_WINDOW)
    progress = Progress("pretrain", config.steps, "steps", done=run.step, shown=zero)
    with progress, StopRequest() as stop_request:
        while run.step < config.steps:
            ids = read_batch(run.step)
            record = train_step(run, ids, stop_request.came is not None)
            observers.meter.add(config.batch_rows, ids.shape[1])
            watch_loss(run, record, recent, observers.log, progress)
            progress.add(1, f"loss {record.loss:.3f}")
            is_last = run.step == config.steps
            if record.is_finite and (run.step % config.log_every == 0 or is_last):
                log_step(run, record, observers)
            if run.step % config.sample_every == 0:
                text = write_sample(run, observers.write_text)
                observers.log.write_sample(run.step, text)
                progress.say(f"step {run.step}: {printable(text, newlines=True)}")
            if run.step % config.checkpoint_every == 0 or is_last or record.stop:
                save(run, checkpoints)
            if record.stop and not is_last:
                checkpoints.wait()
                saved = f"asked to stop: saved at step {run.step:,}"
                progress.say(f"{saved}; the same command carries on from there")
                raise Stopped(run.fabric.global_rank)
    checkpoints.close()


def log_step(run: Run, record: Record, observers: Observers) -> None:
    """Log loss, gradient norm, learning rate, speed and memory."""
    values = {"loss": record.loss, "grad_norm": record.grad_norm}
    values |= {"lr": record.lr_share * run.recipe.pretrain.optim.adamw_lr}
    if run.recipe.diffusion.check_weight:
        values |= {"check_nats_per_token": record.check_nats}
    observers.log.write(run.step, {**values, **observers.meter.read()})


def write_sample(run: Run, write_text: WriteText) -> str:
    """Sample a text with the averaged weights; with shards every process takes part."""
    with run.ema.swapped_in(), run.fabric.autocast():
        text = write_text(run.denoiser.eval(), run.schedule.current)
        reshard(run.denoiser.train())
    return text


def watch_loss(run: Run, record: Record, recent: deque[float], log: RunLog, progress: Progress) -> None:
    """Log a skipped step or a spike and its batch's place in the data; give up after too many skipped ones.

    Raises:
        UserError: too many steps in a row were not finite.
    """
    shows = f"`python -m sunfish.text.batches {run.step - 1}` shows the batch"
    if not record.is_finite:
        log.write_event(run.step, "skipped", record.loss, record.grad_norm)
        says = f"step {run.step}: loss {record.loss}, gradient norm {record.grad_norm}"
        progress.say(f"{says}; skipped ({run.skipped} in a row)")
        if run.skipped >= run.recipe.pretrain.max_skipped:
            advice = "lower pretrain.optim.muon_lr and adamw_lr, a longer warmup_steps"
            advice = f"The last checkpoint is kept. Try {advice}, or launch.precision = 32-true; {shows}"
            raise UserError(f"{says}, and {run.skipped} steps in a row were skipped. {advice}")
        return
    if len(recent) == SPIKE_WINDOW and record.loss > np.mean(recent) + SPIKE_SIGMAS * np.std(recent):
        log.write_event(run.step, "spike", record.loss, record.grad_norm)
        progress.say(f"step {run.step}: the loss jumped to {record.loss:.3f}; {shows}")
    recent.append(record.loss)


def save(run: Run, checkpoints: Checkpoints) -> None:
    """Write, or begin to write, a checkpoint of everything that the next step depends on."""
    state = {
        "schedule": run.schedule.state(),
        "adamw_steps": adamw_steps(run.optimizers.adamw),
        "skipped": run.skipped,
        "torch": torch.__version__,
    }
    checkpoints.save(run.step, run_tensors(run.denoiser, run.ema, run.optimizers), state)


def resume(run: Run, run_dir: Path, pointer: str = "LATEST") -> bool:
    """Put `run` where the last whole checkpoint stood; say whether there was one."""
    folder = find_checkpoint(run_dir, pointer)
    if folder is None:
        return False
    state = restore(run.fabric, folder, run.denoiser, run.ema, run.optimizers, run.schedule)
    run.step, run.skipped = state["step"], state["skipped"]
    return True
