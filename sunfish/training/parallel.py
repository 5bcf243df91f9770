"""The machine: Fabric with the right accelerator and precision. Sharding over processes has its place here."""

from __future__ import annotations

import torch
from lightning.fabric import Fabric

from sunfish.problems import Problem
from sunfish.sections.launch import Section


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
        precision = "bf16-mixed" if has_gpu and torch.cuda.is_bf16_supported() else "32-true"
    fabric = Fabric(accelerator="cuda" if has_gpu else "cpu", devices=1, precision=precision)
    fabric.launch()
    return fabric
