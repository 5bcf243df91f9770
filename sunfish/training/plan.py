"""What a pretraining will take, said without training and without shards."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from sunfish.errors import UserError
from sunfish.model.initial import count_parameters
from sunfish.training.cost import DENSE_BF16, Plan, peak_operations
from sunfish.training.parallel import choose_strategy, count_devices, find_gpu
from sunfish.training.run import Job, open_shards

# of the peak: `full` on one H200 and the default on one CPU thread, as measured (results/)
MEASURED_SHARE = {"cuda": 0.29, "cpu": 0.61}
COUNTS = (1, 2, 4, 8, 16, 32, 64)  # of devices that a plan for other hardware is made for
HERE = "here"


def make_plan(job: Job, vocab_size: int, processes: int | None = None) -> Plan:
    """Return the plan for so many processes; None: those that the configuration asks for."""
    recipe, launch = job.recipe, job.launch
    devices, nodes = count_devices(launch, find_gpu(launch))
    if processes is not None:
        launch = launch if launch.strategy == "fsdp" else dataclasses.replace(launch, strategy="auto")
        devices, nodes = processes, 1
    parameters = count_parameters(recipe.model, vocab_size)
    strategy = choose_strategy(launch, devices * nodes, parameters)
    shards = {"fsdp": devices * nodes, "hybrid": devices}.get(strategy, 1)
    micro_rows = min(recipe.pretrain.micro_rows, recipe.pretrain.batch_rows // (devices * nodes))
    return Plan(
        parameters, devices * nodes, shards, recipe.pretrain.steps, recipe.pretrain.batch_rows, micro_rows,
        job.data.row_length, recipe.model, recipe.diffusion, vocab_size,
        recipe.pretrain.activation_checkpointing,
    )  # fmt: skip


def show_plan(job: Job, shards: Path, hardware: str = HERE) -> None:
    """Print a plan: for the hardware here, or for numbers of GPUs of one name.

    Raises:
        UserError: a GPU whose peak is not known.
    """
    vocab_size = job.data.tokenizer.vocab_size
    if (shards / "manifest.json").is_file():
        vocab_size = open_shards(shards, job.data).vocab_size
    else:
        print(f"{shards}: no shards yet; planned with data.tokenizer.vocab_size = {vocab_size:,}")
    counts = [None] if hardware == HERE else [n for n in COUNTS if job.recipe.pretrain.batch_rows % n == 0]
    plans = [make_plan(job, vocab_size, count) for count in counts]
    device = torch.device("cuda" if hardware != HERE or find_gpu(job.launch) else "cpu")
    peak, share = find_peak(hardware, device), MEASURED_SHARE[device.type]
    print(plans[0].report())
    columns = [plan.column(peak * share) for plan in plans]
    for name in columns[0]:
        print(f"{name:22}" + "".join(f"{column[name]:>12}" for column in columns))
    print(f"hours are at {share:.0%}, as measured, of {peak / 1e12:,.3g} TFLOP/s a device")


def find_peak(hardware: str, device: torch.device) -> float:
    """Return the operations per second of the hardware here, or of a GPU by name."""
    if hardware == HERE:
        return peak_operations(device)
    if hardware not in DENSE_BF16:
        raise UserError(f"--plan {hardware}: its peak is not known; known are {', '.join(DENSE_BF16)}")
    return DENSE_BF16[hardware]
