"""What a pretraining will take, said without training and without shards."""

from __future__ import annotations

from pathlib import Path

import torch

from sunfish.model.initial import count_parameters
from sunfish.training.cost import Plan, peak_operations
from sunfish.training.parallel import choose_strategy, count_devices, find_gpu
from sunfish.training.run import Job, open_shards

# of the peak: what others report at 1.3 B, and what was measured here
EXPECTED_SHARE = {"cuda": 0.4, "cpu": 0.45}


def make_plan(job: Job, vocab_size: int) -> Plan:
    """Return the plan of a pretraining on the hardware that the configuration asks for."""
    recipe = job.recipe
    devices, nodes = count_devices(job.launch, find_gpu(job.launch))
    parameters = count_parameters(recipe.model, vocab_size)
    strategy = choose_strategy(job.launch, devices * nodes, parameters)
    shards = {"fsdp": devices * nodes, "hybrid": devices}.get(strategy, 1)
    micro_rows = min(recipe.pretrain.micro_rows, recipe.pretrain.batch_rows // (devices * nodes))
    return Plan(
        parameters, devices * nodes, shards, recipe.pretrain.steps, recipe.pretrain.batch_rows, micro_rows,
        job.data.row_length, recipe.model, recipe.diffusion, vocab_size,
        recipe.pretrain.activation_checkpointing,
    )  # fmt: skip


def show_plan(job: Job, shards: Path) -> None:
    """Print a plan: at the share of the peak that is asked of this project, on the hardware that is here."""
    device = torch.device("cuda" if find_gpu(job.launch) else "cpu")
    vocab_size = job.data.tokenizer.vocab_size
    if (shards / "manifest.json").is_file():
        vocab_size = open_shards(shards, job.data).vocab_size
    else:
        print(f"{shards}: no shards yet; planned with data.tokenizer.vocab_size = {vocab_size:,}")
    print(make_plan(job, vocab_size).report(peak_operations(device), EXPECTED_SHARE[device.type]))
