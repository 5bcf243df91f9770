"""Train a baseline on the denoiser's rows, by its optimisers, with as many operations as its training takes.

python -m pipelines.baselines.train masked --shards data/shards --out models/baselines/masked
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from lightning.fabric import Fabric

from pipelines.baselines.loss import BaselineLoss, Weights, without_scattered
from sunfish.config.compose import read_section
from sunfish.config.schema.diffusion import DiffusionConfig
from sunfish.config.schema.model import ModelConfig
from sunfish.config.schema.pretrain import PretrainConfig
from sunfish.diffusion.conditioning import StepRandomness, draw_randomness
from sunfish.errors import UserError, report_errors
from sunfish.files import require_writable
from sunfish.model.baseline import FORMAT, BaselineConfig, Kind, make_baseline, read_baseline
from sunfish.model.pretrained import write_folder
from sunfish.progress import Progress
from sunfish.text.batches import Ids, Prefetcher, RowDataset
from sunfish.text.layouts import answer_weights
from sunfish.text.shards import Shards
from sunfish.training.cost import forward_operations, passes, step_operations
from sunfish.training.ema import Ema
from sunfish.training.optim import Optimizers, clip_gradients, lr_share, make_optimizers
from sunfish.training.parallel import flushing_denormals, make_fabric, multiplies_in_bf16, part_of
from sunfish.training.train_step import count_micro

SECTIONS = ("data", "model", "diffusion", "pretrain", "launch")


@report_errors
def main() -> None:
    """Train one baseline."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("kind", choices=get_args(Kind))
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--shards", type=Path, default=Path("data/shards"))
    parser.add_argument("--out", type=Path, required=True, help="folder of the trained baseline")
    parser.add_argument("--base", type=Path, help="a trained baseline to start from, for tasks")
    arguments = parser.parse_args()
    params = {name: read_section(arguments.params, name) for name in SECTIONS}
    train(arguments.kind, params, arguments.shards, arguments.out, arguments.base)


@dataclass(frozen=True)
class BaselineRun:
    """A training in memory."""

    fabric: Fabric
    model: Any  # BaselineLoss, as Fabric wrapped it
    optimizers: Optimizers
    ema: Ema
    diffusion: DiffusionConfig
    pretrain: PretrainConfig
    steps: int

    def step(self, step: int, ids: Ids) -> float:
        """Take one step on this process's rows and return their loss, nats per token."""
        pretrain, length = self.pretrain, ids.shape[1]
        randomness = draw_randomness(self.diffusion, pretrain.seed, step, pretrain.batch_rows, length)
        loss = self._backward(ids, randomness.part(part_of(self.fabric, pretrain.batch_rows)))
        clip_gradients(self.model, pretrain.optim.clip_norm)
        self.optimizers.step(lr_share(step, self.steps, pretrain.optim))
        self.optimizers.zero_grad()
        self.ema.update(step)
        return loss

    def _backward(self, ids: Ids, randomness: StepRandomness) -> float:
        num_micro = count_micro(len(ids), self.pretrain.micro_rows)
        each, total = len(ids) // num_micro, 0.0
        for index in range(num_micro):
            rows = slice(index * each, (index + 1) * each)
            with self.fabric.no_backward_sync(self.model, enabled=index < num_micro - 1):
                loss = self.model(ids[rows], randomness.part(rows)) / num_micro
                self.fabric.backward(loss)
            total += float(loss.detach())
        return total


def start(
    kind: Kind, params: dict[str, Any], rows: RowDataset, vocab_size: int, base: Path | None,
    weights: Weights | None,
) -> BaselineRun:  # fmt: skip
    """Return a run at step 0."""
    diffusion, pretrain, model = params["diffusion"], params["pretrain"], params["model"]
    fabric = make_fabric(params["launch"])
    baseline = (
        make_baseline(model, vocab_size, kind, pretrain.seed)
        if base is None
        else read_baseline(base).baseline.train()
    )
    counts = weights or (partial(answer_weights, end_id=rows.end_id) if rows.answers else np.ones_like)
    wrapped = fabric.setup(BaselineLoss(baseline, diffusion.check_weight, rows.between, counts))
    ready = wrapped.module.baseline
    optimizers = make_optimizers(ready, pretrain.optim, multiplies_in_bf16(fabric))
    masked = dataclasses.replace(diffusion, known=without_scattered(diffusion.known))
    steps = equal_steps(kind, model, diffusion, pretrain.steps, vocab_size, rows.lengths().median)
    return BaselineRun(fabric, wrapped, optimizers, Ema(ready, pretrain.ema_decay), masked, pretrain, steps)


@flushing_denormals()
def train(
    kind: Kind, params: dict[str, Any], shards_dir: Path, out: Path, base: Path | None = None,
    weights: Weights | None = None,
) -> None:  # fmt: skip
    """Train and write the averaged weights; `weights` are `BaselineLoss`'s, by default those of the rows.

    Raises:
        UserError: the shards cannot be read, `out` cannot be written, or the loss is not finite.
    """
    shards, pretrain = Shards(shards_dir), params["pretrain"]
    rows = RowDataset(shards, "train", params["data"])
    require_writable(out)
    run = start(kind, params, rows, shards.vocab_size, base, weights)
    order = rows.order(pretrain.batch_rows, pretrain.seed)
    read = Prefetcher(rows, order, part_of(run.fabric, pretrain.batch_rows))
    with Progress(kind, run.steps, "steps", shown=run.fabric.is_global_zero) as progress:
        for step in range(run.steps):
            loss = run.step(step, read(step))
            progress.add(1, f"loss {loss:.3f}")
            if not math.isfinite(loss):
                raise UserError(f"step {step}: the loss is {loss}; lower the rates under pretrain.optim")
    if run.fabric.is_global_zero:
        can_check = kind == "autoregressive" or params["diffusion"].check_weight > 0
        config = BaselineConfig(
            FORMAT, params["model"], shards.vocab_size, rows.lengths(), shards.end_id, can_check, kind,
            answers=rows.answers,
        )  # fmt: skip
        write_folder(out, config, run.ema.average, shards.folder)


def equal_steps(
    kind: Kind, model: ModelConfig, diffusion: DiffusionConfig, steps: int, vocab_size: int, length: int
) -> int:
    """Return in how many steps a baseline takes as many operations as the denoiser in `steps`.

    A step has the same rows. The denoiser's has two passes forward and backward with the check, and half a
    pass of self-conditioning; the masked baseline's has two, the autoregressive one's has one.
    """
    denoiser = step_operations(model, diffusion, vocab_size, 1, length)
    return round(steps * denoiser / baseline_operations(kind, model, diffusion, vocab_size, length))


def baseline_operations(
    kind: Kind, model: ModelConfig, diffusion: DiffusionConfig, vocab_size: int, length: int
) -> float:
    """Return the operations of one training step of a baseline on one row: forward, and twice that backward.

    A baseline has no output prior, and reads no earlier estimate at its input.
    """
    num_passes = 1 if kind == "autoregressive" else passes(diffusion)
    forward = forward_operations(dataclasses.replace(model, output_prior=False), vocab_size, length)
    return num_passes * 3 * length * (forward - 2 * model.width * model.emb_dim)


if __name__ == "__main__":
    main()
