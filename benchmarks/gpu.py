"""`full` (1.4 B) and `large` (350 M) on one GPU: throughput, share of the dense bf16 peak, memory, with each
lever on and off.

python -m benchmarks.gpu            # a few minutes; every line goes to benchmarks/results.jsonl
"""

from __future__ import annotations

import argparse
import dataclasses
import gc

import numpy as np
import torch

from benchmarks.record import composed, interleave, record, spread
from sunfish.training.cost import GIB, peak_operations, step_operations
from sunfish.training.parallel import make_fabric
from sunfish.training.train_step import Recipe, start_run, train_step

LENGTH, VOCAB_SIZE, ROUNDS = 512, 50_257, 5
LEVERS = {  # from what `-S model=...` alone gives, one lever at a time
    "default": [],
    "not compiled": ["launch.compile=false"],
    "no checkpointing": ["pretrain.activation_checkpointing=none"],
    "full checkpointing": ["pretrain.activation_checkpointing=full"],
    "micro-batches of 16": ["pretrain.micro_rows=16"],
    "fp32": ["launch.precision=32-true"],
}


def measure(model: str, lever: str, overrides: list[str], steps: int) -> None:
    """Time whole optimiser steps, and record them; running out of memory is a result too."""
    params = composed(f"model={model}", *overrides)
    pretrain, launch, diffusion = params["pretrain"], params["launch"], params["diffusion"]
    pretrain = dataclasses.replace(pretrain, batch_rows=min(pretrain.batch_rows, 4 * pretrain.micro_rows))
    recipe = Recipe(params["model"], params["schedule"], diffusion, pretrain)
    torch.cuda.reset_peak_memory_stats()
    fabric = make_fabric(launch)
    ids = np.random.default_rng(0).integers(VOCAB_SIZE, size=(pretrain.batch_rows, LENGTH))
    try:
        run = start_run(fabric, recipe, VOCAB_SIZE, launch.compile is not False)
        seconds = interleave(steps, step=lambda: train_step(run, ids))["step"]
    except torch.cuda.OutOfMemoryError:
        record("GPU training step", model=model, lever=lever, out_of_memory=True)
        return
    operations = step_operations(params["model"], diffusion, VOCAB_SIZE, pretrain.batch_rows, LENGTH)
    record(
        "GPU training step", model=model, lever=lever, rows=pretrain.batch_rows,
        micro_rows=pretrain.micro_rows,
        length=LENGTH,
        step_seconds=spread(seconds, 4),
        tokens_per_second=spread([pretrain.batch_rows * LENGTH / s for s in seconds], 0),
        share_of_peak=spread([operations / s / peak_operations(fabric.device) for s in seconds]),
        memory_gib=round(torch.cuda.max_memory_allocated() / GIB, 1),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["full", "large"])
    parser.add_argument("--levers", nargs="+", default=list(LEVERS), choices=list(LEVERS))
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("this machine shows no CUDA device")
    for model in arguments.models:
        for lever in arguments.levers:
            measure(model, lever, LEVERS[lever], ROUNDS)
            gc.collect()
            torch.cuda.empty_cache()
            torch._dynamo.reset()


if __name__ == "__main__":
    main()
