"""What `python -m stages.pretrain --plan` says of memory, held against a dry run and against processes here.

python -m benchmarks.plan model=full --processes 1 8 64       # fake tensors: any size, no memory
python -m benchmarks.plan model=small data.row_length=64 --processes 1 2 4 --real     # FSDP2 with gloo
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.testing._internal.distributed.fake_pg import FakeStore

from benchmarks.record import composed, recipe_of, record
from sunfish.diffusion.conditioning import draw_randomness
from sunfish.model import readout, transformer
from sunfish.training.checkpoint import Checkpoints
from sunfish.training.cost import GIB, Plan
from sunfish.training.loop import save
from sunfish.training.parallel import make_fabric
from sunfish.training.plan import make_plan
from sunfish.training.run import Job
from sunfish.training.train_step import Run, backward, start_run, train_step

VOCAB_SIZE = 50_257
FUSED = F.scaled_dot_product_attention
KEPT = [*transformer.PRODUCTS, torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default]
Params = dict[str, Any]


class LiveBytes(MemTracker):
    """The bytes of all live tensors and their peak, without modules, which torch's tracker follows once."""

    _pre_fw_hook = _post_fw_hook = _pre_bw_hook = _post_bw_hook = staticmethod(lambda *_: None)

    def forget_peak(self) -> None:
        self._peak_mem.clear()

    def gib(self, which: str) -> float:
        return sum(device["Total"] for device in self.get_tracker_snapshot(which).values()) / GIB


@contextmanager
def fake_processes(num: int) -> Iterator[None]:
    """Let this process take itself for the first of `num` that torchrun started."""
    told = {
        "WORLD_SIZE": num,
        "LOCAL_WORLD_SIZE": num,
        "RANK": 0,
        "LOCAL_RANK": 0,
        "GROUP_RANK": 0,
        "TORCHELASTIC_RUN_ID": 0,
    }
    with mock.patch.dict(os.environ, {name: str(value) for name, value in told.items()}):
        dist.init_process_group("fake", rank=0, world_size=num, store=FakeStore())
        yield
        dist.destroy_process_group()


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Let attention and the readout hold what they hold on a GPU."""
    attend = mock.patch.object(
        transformer, "attend", lambda q, k, v, mask: FUSED(q, k, v, is_causal=mask.is_causal)
    )
    kept = mock.patch.object(transformer, "PRODUCTS", KEPT)
    with attend, kept, mock.patch.dict(readout.PIECE, cpu=readout.PIECE["cuda"]):
        yield


@contextmanager
def dry_start(
    params: Params, vocab_size: int, processes: int, on_gpu: bool = True
) -> Iterator[tuple[Run, LiveBytes]]:
    """Yield the first of `processes` at step 0, of fake tensors, and the count of their bytes."""
    with ExitStack() as stack:
        stack.enter_context(fake_processes(processes))
        if on_gpu:
            stack.enter_context(as_on_a_gpu())
        fabric = make_fabric(params["launch"], plan_of(params, vocab_size, processes).parameters)
        stack.enter_context(mock.patch.object(nn.Module, "to", lambda self, *_, **__: self))  # it is there
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        live = stack.enter_context(LiveBytes())
        yield start_run(fabric, recipe_of(params), vocab_size), live


def dry_run(params: Params, vocab_size: int, processes: int, on_gpu: bool = True) -> float:
    """Return how many GiB one of `processes` holds at most in a step."""
    with dry_start(params, vocab_size, processes, on_gpu) as (run, live):
        fill_states(run)
        live.forget_peak()
        one_micro_batch(run, params["data"].row_length)
        return live.gib("peak")


def fill_states(run: Run) -> None:
    """Give gradients and optimisers their tensors, as a run has them from its second micro-batch on."""
    for parameter in run.denoiser.parameters():
        parameter.grad = torch.zeros_like(parameter)
    run.optimizers.step(1.0)


def one_micro_batch(run: Run, length: int) -> None:
    """Take a step of one micro-batch but for what reads numbers, which fake tensors have not."""
    pretrain = run.recipe.pretrain
    randomness = draw_randomness(run.recipe.diffusion, 0, 0, pretrain.batch_rows, length)
    rows = min(pretrain.micro_rows, pretrain.batch_rows // run.fabric.world_size)
    backward(run, np.zeros((rows, length), np.int64), randomness.part(slice(0, rows)))
    nn.utils.clip_grad_norm_(run.denoiser.parameters(), 1.0)
    run.optimizers.step(1.0)
    run.ema.update(0)


def plan_of(params: Params, vocab_size: int, processes: int) -> Plan:
    """Return the plan for a number of processes."""
    job = Job(params["data"], recipe_of(params), params["launch"], params["tracking"])
    return make_plan(job, vocab_size, processes)


def measure_here(params: Params, vocab_size: int) -> None:
    """Take two steps and write a checkpoint; the first process prints what it held and how long that took."""
    before, fabric = resident_gib("VmRSS"), make_fabric(params["launch"])
    run, pretrain = start_run(fabric, recipe_of(params), vocab_size), params["pretrain"]
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    ids = np.zeros((pretrain.batch_rows // fabric.world_size, params["data"].row_length), np.int64)
    for _ in range(2):
        train_step(run, ids)
    peak = resident_gib("VmHWM") - before
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(fabric, Path(fabric.broadcast(folder)), 1, beside=False)
        started = time.perf_counter()
        save(run, checkpoints)
        seconds = time.perf_counter() - started
        size = sum(path.stat().st_size for path in checkpoints.run_dir.rglob("*.safetensors")) / GIB
        fabric.barrier()
    if fabric.is_global_zero:
        print(json.dumps({"peak": peak, "checkpoint_gib": size, "checkpoint_seconds": seconds}))


def resident_gib(field: str) -> float:
    """Return this process's resident memory: VmRSS, or VmHWM, its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / GIB


def start_here(overrides: list[str], processes: int) -> dict[str, float]:
    """Return what `measure_here` finds in so many processes."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    this = ["-m", "benchmarks.plan", "--here", *overrides]
    done = subprocess.run([sys.executable, *torchrun, *this], check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", default=["model=full"])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--real", action="store_true", help="also start them here")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    params = composed(*arguments.overrides, "launch.accelerator=cpu", "tracking=off")
    if arguments.here:
        return measure_here(params, VOCAB_SIZE)
    for processes in arguments.processes:
        plan = plan_of(params, VOCAB_SIZE, processes)
        found = {"plan": plan.most(), "dry_run": dry_run(params, VOCAB_SIZE, processes)}
        if arguments.real:
            found |= {"dry_run_as_here": dry_run(params, VOCAB_SIZE, processes, on_gpu=False)}
            found |= {
                f"{name}_here": value for name, value in start_here(arguments.overrides, processes).items()
            }
        found = {name: round(value, 3) for name, value in found.items()}
        record("planned memory, GiB a process", overrides=arguments.overrides, processes=processes, **found)


if __name__ == "__main__":
    main()
