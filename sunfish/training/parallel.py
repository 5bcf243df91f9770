"""The machine: Fabric with the right accelerator and precision. Sharding over processes has its place here."""

from __future__ import annotations

import torch
from lightning.fabric import Fabric

from sunfish.problems import Problem
from sunfish.sections.launch import Section


def cpu_multiplies_bf16() -> bool:
    """Say whether this CPU has instructions for bf16 products; without them bf16 is slower than fp32."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def make_fabric(launch: Section) -> Fabric:
    """Return a launched Fabric for one process: GPU where there is one, bf16 where the hardware multiplies in it."""
    if launch.devices != 1:
        raise Problem(f"launch.devices = {launch.devices}: one process trains today; set it to 1")
    if launch.num_threads is not None:
        torch.set_num_threads(launch.num_threads)
    torch.set_flush_denormal(True)  # a sure softmax is full of them, and CPUs multiply them slowly
    has_gpu = torch.cuda.is_available() and launch.accelerator != "cpu"
    if launch.accelerator == "cuda" and not has_gpu:
        raise Problem("launch.accelerator = 'cuda': this machine shows no CUDA device; set it to auto or cpu")
    precision = launch.precision
    if precision == "auto":
        multiplies_bf16 = torch.cuda.is_bf16_supported() if has_gpu else cpu_multiplies_bf16()
        precision = "bf16-mixed" if multiplies_bf16 else "32-true"
    if precision == "bf16-mixed" and not has_gpu:
        torch.backends.cuda.enable_flash_sdp(False)  # of CPUs too: its bf16 backward pass is several times slower than the plain one
    fabric = Fabric(accelerator="cuda" if has_gpu else "cpu", devices=1, precision=precision)
    fabric.launch()
    return fabric
