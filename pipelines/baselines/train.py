"""Train a twin on the same rows in the same order, by the same optimisers, for the same number of operations
as SunFish.

python -m pipelines.baselines.train masked --shards data/shards --out models/twins/masked
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from pipelines.baselines.objective import text_end, train_loss
from sunfish.config.compose import check
from sunfish.model.baseline import Kind, make_baseline, write_baseline
from sunfish.errors import report_errors
from sunfish.progress import Progress
from sunfish.config.schema.diffusion import DiffusionConfig
from sunfish.config.schema.model import ModelConfig
from sunfish.config.schema.pretrain import PretrainConfig
from sunfish.text.batches import Prefetcher, RowDataset
from sunfish.text.shards import Shards
from sunfish.training.cost import step_operations
from sunfish.training.ema import Ema
from sunfish.training.optim import clip_gradients, lr_share, make_optimizers
from sunfish.training.parallel import flushing_denormals, make_fabric, multiplies_in_bf16


@report_errors
@flushing_denormals()
def main() -> None:
    """Train one twin."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("kind", choices=get_args(Kind))
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    params, shards = check(arguments.params), Shards(arguments.shards)
    model, section, rows = params["model"], params["pretrain"], RowDataset(shards, "train", params["data"])
    fabric = make_fabric(params["launch"])
    wrapped = fabric.setup(make_baseline(model, shards.vocab_size, arguments.kind, section.seed))
    twin = wrapped.module
    optimizers, ema = (
        make_optimizers(twin, section.optim, multiplies_in_bf16(fabric)),
        Ema(twin, section.ema_decay),
    )
    diffusion = params["diffusion"]
    batch_rows = round(
        diffusion.copies * section.batch_rows
    )  # as many positions a step as SunFish's copies have together
    end = text_end(params["data"], shards.end_id)
    feed = Prefetcher(rows, rows.order(batch_rows, section.seed), slice(0, batch_rows))
    steps = equal_steps(model, diffusion, section, batch_rows, shards.vocab_size, rows.lengths().usual)
    with Progress(arguments.kind, steps, "steps") as progress:
        for step in range(steps):
            with fabric.autocast():
                loss = train_loss(twin, feed(step), end, np.random.default_rng((section.seed, step)))
            fabric.backward(loss)
            clip_gradients(twin, section.optim.clip_norm)
            optimizers.step(lr_share(step, steps, section.optim))
            optimizers.zero_grad()
            ema.update(step)
            progress.add(1, f"loss {float(loss.detach()):.3f}")
            if not torch.isfinite(loss):
                raise SystemExit(f"step {step}: the loss is {float(loss)}")
    write_baseline(arguments.out, twin, ema.average, rows.lengths(), shards.manifest["tokenizer_sha256"])


def equal_steps(
    model: ModelConfig,
    diffusion: DiffusionConfig,
    section: PretrainConfig,
    batch_rows: int,
    vocab_size: int,
    length: int,
) -> int:
    """Return how many steps of `batch_rows` rows take a twin as many operations as the configured steps take
    SunFish.

    A twin has no output prior; its first layer is counted as wide as SunFish's, which is a little too much.
    """
    ours = step_operations(
        model, vocab_size, section.batch_rows, length, diffusion.self_conditioning, diffusion.copies
    )
    theirs = step_operations(
        dataclasses.replace(model, output_prior=False), vocab_size, batch_rows, length, 0.0
    )
    return round(section.steps * ours / theirs)


if __name__ == "__main__":
    main()
