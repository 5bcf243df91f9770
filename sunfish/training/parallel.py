"""The machine: how many processes, what each one holds, in which precision; one process is the simplest case
of the same code.

`single`: one process. `ddp`: every process holds the model, gradients are averaged. `fsdp`: weights,
gradients, averages and optimiser states are cut into shards, one a process (FSDP2, a block at a time).
`hybrid`: shards within a node, replicas between nodes."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from sunfish.config.schema.launch import LaunchConfig
from sunfish.errors import UserError

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h
# parameters: with 16 bytes each (weights, gradients, two averages or more) a replica takes 8 GB
SHARD_ABOVE = 500_000_000
warnings.filterwarnings("ignore", "FSDP2-wrapped module")  # nothing is written into what it returns
ENTRY_POINTS = ("token_nats", "next_token_nats", "next_token_logits", "embed")  # beside `forward`


def make_fabric(launch: LaunchConfig, num_parameters: int = 0) -> Fabric:
    """Return a launched Fabric; with several devices this starts the other processes, unless torchrun or srun
    has.

    Raises:
        UserError: a device or a precision that the machine has not, or a strategy that does not fit the
        number of processes.
    """
    if launch.num_threads is not None:
        torch.set_num_threads(launch.num_threads)
    keep_freed_memory()
    has_gpu = find_gpu(launch)
    devices, num_nodes = count_devices(launch, has_gpu)
    precision = choose_precision(launch, has_gpu)
    name = choose_strategy(launch, devices * num_nodes, num_parameters)
    strategy = make_strategy(name, devices, num_nodes, precision)
    accelerator = "cuda" if has_gpu else "cpu"
    fabric = Fabric(
        accelerator=accelerator, strategy=strategy, devices=devices, num_nodes=num_nodes, precision=precision
    )
    fabric.launch()
    return fabric


@contextmanager
def flushing_denormals() -> Iterator[None]:
    """Inside the block this thread takes denormals for zero: a sure softmax is full of them, and CPUs
    multiply them slowly.

    Afterwards it does what it did before. Others in the process may count on denormals: a program that
    OpenVINO (2026.4) made of a graph with a loop answers with noise for good if they are flushed at its first
    call."""
    before = bool(torch.tensor(1e-40) * 1.0 == 0.0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next step; handing pages back took a sixth of one."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        for setting, size in {M_MMAP_THRESHOLD: 2**25, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2**27}.items():
            if mallopt is not None:
                mallopt(setting, size)


def find_gpu(launch: LaunchConfig) -> bool:
    """Say whether GPUs are to be used."""
    has_gpu = torch.cuda.is_available() and launch.accelerator != "cpu"
    if launch.accelerator == "cuda" and not has_gpu:
        says = "launch.accelerator = 'cuda': this machine shows no CUDA device"
        raise UserError(f"{says}; set it to auto or cpu")
    return has_gpu


def count_devices(launch: LaunchConfig, has_gpu: bool) -> tuple[int, int]:
    """Return (processes per node, nodes): as torchrun or srun started them, else as configured."""
    told = os.environ
    if "LOCAL_WORLD_SIZE" in told and "TORCHELASTIC_RUN_ID" in told:
        return int(told["LOCAL_WORLD_SIZE"]), int(told["WORLD_SIZE"]) // int(told["LOCAL_WORLD_SIZE"])
    if "SLURM_NTASKS" in told and told.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        nodes = int(told.get("SLURM_NNODES", 1))
        return int(told["SLURM_NTASKS"]) // nodes, nodes
    there = torch.cuda.device_count() if has_gpu else 1
    if has_gpu and launch.devices is not None and launch.devices > there:
        says = f"launch.devices = {launch.devices}: this machine shows {there} CUDA devices"
        raise UserError(f"{says}; set it to null or at most {there}")
    return launch.devices or there, 1


def cpu_multiplies_bf16() -> bool:
    """Say whether this CPU has instructions for bf16 products; without them bf16 is slower than fp32."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def choose_precision(launch: LaunchConfig, has_gpu: bool) -> Any:
    """Return Fabric's name for the precision; `auto` takes bf16 where the hardware multiplies in it."""
    gpu_multiplies = has_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    multiplies_bf16 = gpu_multiplies if has_gpu else cpu_multiplies_bf16()
    if launch.precision == "auto":
        return "bf16-mixed" if multiplies_bf16 else "32-true"
    if launch.precision == "bf16-mixed" and has_gpu and not multiplies_bf16:
        says = f"launch.precision = 'bf16-mixed': {torch.cuda.get_device_name()} has no bf16"
        raise UserError(f"{says}; set it to auto or 32-true")
    return launch.precision


def choose_strategy(launch: LaunchConfig, num_processes: int, num_parameters: int) -> str:
    """Return single, ddp, fsdp or hybrid; `auto` replicates small models and shards large ones."""
    wanted = launch.strategy
    if wanted == "auto":
        wanted = "single" if num_processes == 1 else "fsdp" if num_parameters > SHARD_ABOVE else "ddp"
    if (wanted == "single") != (num_processes == 1) and wanted != "fsdp":
        processes = "1 process" if num_processes == 1 else f"{num_processes} processes"
        raise UserError(f"launch.strategy = '{launch.strategy}': does not fit {processes}; set it to auto")
    return wanted


def make_strategy(name: str, devices: int, num_nodes: int, precision: str) -> Any:
    """Return what Fabric calls a strategy."""
    if name == "single":
        return "auto"
    if name == "ddp":
        return DDPStrategy()
    shape = (num_nodes, devices) if name == "hybrid" else None
    cut: Any = functools.partial(shard, shape=shape, in_bf16=precision == "bf16-mixed")
    return ModelParallelStrategy(cut, data_parallel_size=devices * num_nodes, tensor_parallel_size=1)


def shard(module: nn.Module, mesh: DeviceMesh, shape: tuple[int, int] | None, in_bf16: bool) -> nn.Module:
    """Cut the denoiser inside `module` into shards, each block by itself and the rest together.

    Blocks travel in bf16 where they multiply in it, and their gradients in fp32. `shape` is (nodes, processes
    per node) for shards within a node and replicas between; None shards over all."""
    names, across = ("replicate", "shard"), mesh["data_parallel"]
    if shape:
        across = init_device_mesh(mesh.device_type, shape, mesh_dim_names=names)
    policy = MixedPrecisionPolicy()
    if in_bf16:
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    denoiser = cast(Any, module).denoiser
    for block in denoiser.transformer.blocks:
        fully_shard(block, mesh=across, mp_policy=policy)
    fully_shard(denoiser, mesh=across)
    for name in ENTRY_POINTS:
        register_fsdp_forward_method(denoiser, name)
    return module


def reshard(denoiser: nn.Module) -> None:
    """Let go of weights gathered for a pass without a backward one: the next must not find them outdated."""
    for module in denoiser.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor in one piece; every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor, in place: what works on lists may gather sharded ones whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(tensor: DTensor, values: Tensor) -> DTensor:
    """Return this process's part of whole `values`, cut as `tensor` is."""
    return distribute_tensor(values, tensor.device_mesh, tensor.placements, src_data_rank=None)


def multiplies_in_bf16(fabric: Fabric) -> bool:
    """Say whether products are taken in bf16."""
    return bool(fabric._precision.precision == "bf16-mixed")


def part_of(fabric: Fabric, num_rows: int) -> slice:
    """Return which rows of a batch are this process's."""
    each = num_rows // fabric.world_size
    return slice(fabric.global_rank * each, (fabric.global_rank + 1) * each)


def count_processes(launch: LaunchConfig) -> int:
    """Return how many processes will train, over all nodes."""
    devices, nodes = count_devices(launch, find_gpu(launch))
    return devices * nodes


def gather(fabric: Fabric, values: Tensor) -> np.ndarray:
    """Return every process's `values`, (n,), as float64, (processes, n)."""
    gathered = values.detach()[None]
    if fabric.world_size > 1:
        gathered = values.new_empty(fabric.world_size, len(values))
        dist.all_gather_into_tensor(gathered.view(-1), values.detach().contiguous())
    return gathered.double().cpu().numpy()
