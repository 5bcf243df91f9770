"""Pretraining: one step, and many; log, sample, checkpoint, resume. The same code for one process and for
many.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor

from sunfish.model.denoiser import Denoiser
from sunfish.errors import UserError
from sunfish.progress import Progress
from sunfish.diffusion.schedule import NoiseSchedule
from sunfish.config.schema.diffusion import DiffusionConfig
from sunfish.config.schema.model import ModelConfig
from sunfish.config.schema.pretrain import PretrainConfig
from sunfish.training.build import LawKeeper, build_denoiser
from sunfish.training.checkpoint import Checkpoints, find_checkpoint
from sunfish.training.cost import Meter
from sunfish.diffusion.conditioning import Draws, draw_step
from sunfish.training.ema import Ema
from sunfish.training.log import RunLog
from sunfish.training.optim import Optimizers, clip_gradients, lr_share, make_optimizers
from sunfish.training.parallel import gather, multiplies_in_bf16, part_of, reshard
from sunfish.training.state import adamw_steps, law_state, restore, run_tensors
from sunfish.training.loss import DiffusionLoss
from sunfish.training.stopping import Stopped, StopRequest

ReadBatch = Callable[[int], np.ndarray]  # step -> this process's rows of its batch, (rows, pos)
SPIKE_OVER = 100  # losses that a spike is held against
SPIKE_SIGMAS = 6.0


@dataclass
class Run:
    """A training run in memory: everything a checkpoint holds."""

    fabric: Fabric
    model: Any  # DiffusionLoss, as Fabric wrapped it
    optimizers: Optimizers
    ema: Ema
    keeper: LawKeeper
    diffusion: DiffusionConfig
    pretrain: PretrainConfig
    step: int = 0
    skipped: int = 0  # steps without an update, in a row

    @property
    def law(self) -> NoiseSchedule:
        """Return the noise law as it stands."""
        return self.keeper.law

    @property
    def denoiser(self) -> Denoiser:
        """Return the denoiser inside the wrappers."""
        denoiser: Denoiser = self.model.module.denoiser
        return denoiser


@dataclass(frozen=True)
class Record:
    """What one step tells; the same on every process."""

    # mean over what noisy copies are asked about: cross-entropy in nats (ce, elbo) or mean square (eps_mse,
    # x0_mse)
    loss: float
    grad_norm: float
    lr_share: float
    stop: bool = False  # some process was asked to stop

    @property
    def is_finite(self) -> bool:
        """Say whether the step could be taken."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


def start_run(
    fabric: Fabric,
    model: ModelConfig,
    diffusion: DiffusionConfig,
    pretrain: PretrainConfig,
    vocab_size: int,
    compiled: bool = False,
    end_id: int | None = None,
) -> Run:
    """Return a run at step 0; with an end token, documents of one row do not see each other."""
    denoiser = build_denoiser(model, diffusion, vocab_size, pretrain.seed)
    block: Any
    for block in denoiser.transformer.blocks:
        block.activation_checkpointing = pretrain.activation_checkpointing
        if compiled:
            block.compile()
    wrapped = fabric.setup(DiffusionLoss(denoiser, diffusion, end_id))
    ready = wrapped.module.denoiser
    optimizers = make_optimizers(ready, pretrain.optim, in_bf16=multiplies_in_bf16(fabric))
    return Run(
        fabric,
        wrapped,
        optimizers,
        Ema(ready, pretrain.ema_decay),
        LawKeeper(diffusion.law),
        diffusion,
        pretrain,
    )


def train_step(run: Run, ids: np.ndarray, stop: bool = False) -> Record:
    """Take one step on this process's rows of a batch, (rows, pos): accumulate, clip, update, average, watch
    the noise law.

    Where the loss or the gradient is not finite, nothing is updated and `run.skipped` counts up.
    """
    section, optim = run.pretrain, run.pretrain.optim
    draws = draw_step(run.diffusion, section.seed, run.step, section.batch_rows, ids.shape[1])
    mine = backward(run, ids, draws.part(part_of(run.fabric, section.batch_rows)))
    grad_norm = clip_gradients(run.denoiser, optim.clip_norm)
    losses, stops = split_told(
        gather(run.fabric, torch.cat((mine.flatten(), mine.new_tensor([float(stop)])))), ids.shape[1]
    )
    share = lr_share(run.step, section.steps, optim)
    record = Record(float(losses[draws.asked].mean()), grad_norm, share, bool(stops.any()))
    if record.is_finite:
        run.optimizers.step(share)
        run.ema.update(run.step)
        watch_law(run, draws, losses)
    run.optimizers.zero_grad()
    run.skipped = 0 if record.is_finite else run.skipped + 1
    run.step += 1
    return record


def backward(run: Run, ids: np.ndarray, draws: Draws) -> Tensor:
    """Accumulate the gradient over micro-batches, synchronised with the last, and return each position's
    loss, (rows, pos).
    """
    num_micro = count_micro(len(ids), run.pretrain.micro_rows)
    each, losses = len(ids) // num_micro, []
    for index in range(num_micro):
        rows = slice(index * each, (index + 1) * each)
        micro = draws.part(rows)
        with run.fabric.no_backward_sync(run.model, enabled=index < num_micro - 1):
            levels = run.law.logsnr_at(micro.times)
            loss, each_loss = run.model(ids[rows], micro, levels, run.law.density(levels))
            run.fabric.backward(loss / num_micro)
        losses.append(each_loss)
    return torch.cat(losses)


def count_micro(rows: int, most: int) -> int:
    """Return into how many equal parts of at most `most` rows a process cuts its rows."""
    return next(parts for parts in range(-(-rows // most), rows + 1) if rows % parts == 0)


def split_told(told: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the losses of all rows in the batch's order, (rows, pos), and each process's last number."""
    return told[:, :-1].reshape(-1, length), told[:, -1]


def watch_law(run: Run, draws: Draws, losses: np.ndarray) -> None:
    """Show a learned law what is being decided in rows of which nothing was given: that is what free sampling
    meets.
    """
    learned = run.keeper.learned
    seen = draws.deciding & draws.free[:, None]
    if learned is None or not seen.any():
        return
    learned.observe(learned.law.logsnr_at(draws.times[seen]), losses[seen])
    if (run.step + 1) % run.keeper.refit_every == 0:
        learned.refit()


def train(
    run: Run,
    read_batch: ReadBatch,
    checkpoints: Checkpoints,
    log: RunLog,
    sample: Callable[[Denoiser, NoiseSchedule], str],
    meter: Meter,
) -> None:
    """Train until the last step, from wherever `run` stands; log, sample and save at the configured steps.

    Raises:
        UserError: the loss or the gradient was not finite too many steps in a row, or the disk is full.
        Stopped: SIGTERM or SIGINT came to some process; all is saved.
    """
    section, zero = run.pretrain, run.fabric.is_global_zero
    recent: deque[float] = deque(maxlen=SPIKE_OVER)
    with (
        Progress("pretrain", section.steps, "steps", done=run.step, shown=zero) as progress,
        StopRequest() as asked,
    ):
        while run.step < section.steps:
            ids = read_batch(run.step)
            record = train_step(run, ids, asked.came is not None)
            meter.add(section.batch_rows, ids.shape[1])
            watch_loss(run, record, recent, log, progress)
            progress.add(1, f"loss {record.loss:.3f}")
            if record.is_finite and (run.step % section.log_every == 0 or run.step == section.steps):
                lr = record.lr_share * section.optim.adamw_lr
                log.write(
                    run.step, {"loss": record.loss, "grad_norm": record.grad_norm, "lr": lr, **meter.read()}
                )
            if run.step % section.sample_every == 0:
                text = write_sample(run, sample)
                log.write_sample(run.step, text)
                progress.say(f"step {run.step}: {text}")
            if run.step % section.checkpoint_every == 0 or run.step == section.steps or record.stop:
                save(run, checkpoints)
            if record.stop and run.step < section.steps:
                checkpoints.wait()
                progress.say(
                    f"asked to stop: saved at step {run.step:,}; the same command carries on from there"
                )
                raise Stopped(run.fabric.global_rank)
    checkpoints.close()


def write_sample(run: Run, sample: Callable[[Denoiser, NoiseSchedule], str]) -> str:
    """Let the averaged weights write; with shards every process takes part."""
    with run.ema.swapped_in(), run.fabric.autocast():
        text = sample(run.denoiser, run.law)
        reshard(run.denoiser)
    return text


def watch_loss(run: Run, record: Record, recent: deque[float], log: RunLog, progress: Progress) -> None:
    """Log a skipped step or a spike with where its batch stands in the data, and give up after too many
    skipped ones.

    Raises:
        UserError: too many steps in a row were not finite.
    """
    at, most = run.step - 1, run.pretrain.max_skipped
    if not record.is_finite:
        log.write_event(run.step, "skipped", record.loss, record.grad_norm)
        progress.say(
            f"step {run.step}: loss {record.loss}, gradient norm {record.grad_norm}; skipped ({run.skipped} in a row)"
        )
        if run.skipped >= most:
            raise UserError(
                f"step {run.step}: the loss is {record.loss} and the gradient norm {record.grad_norm}, and {most} steps in a row were "
                "skipped. The last checkpoint is kept. Try a lower pretrain.optim.muon_lr and adamw_lr, a longer warmup_steps, or "
                f"launch.precision = 32-true; `python -m sunfish.text.batches {at}` shows the batch"
            )
        return
    if len(recent) == SPIKE_OVER and record.loss > np.mean(recent) + SPIKE_SIGMAS * np.std(recent):
        log.write_event(run.step, "spike", record.loss, record.grad_norm)
        progress.say(
            f"step {run.step}: the loss jumped to {record.loss:.3f}; `python -m sunfish.text.batches {at}` shows the batch"
        )
    recent.append(record.loss)


def save(run: Run, checkpoints: Checkpoints) -> None:
    """Write, or begin to write, a checkpoint of everything the next step depends on."""
    state = {
        "law": law_state(run.keeper),
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
    state = restore(run.fabric, folder, run.denoiser, run.ema, run.optimizers, run.keeper)
    run.step, run.skipped = state["step"], state["skipped"]
    return True
