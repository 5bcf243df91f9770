"""What a checkpoint holds of a run, by name, and how a fresh run takes it over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn

from sunfish.diffusion.schedules import TrainingSchedule
from sunfish.files import read_json
from sunfish.training.checkpoint import Tensors, load_tensors
from sunfish.training.ema import Ema
from sunfish.training.optim import Optimizers

MOMENTS = ("exp_avg", "exp_avg_sq")


def run_tensors(denoiser: nn.Module, ema: Ema, optimizers: Optimizers) -> Tensors:
    """Return all tensors by name that a run learns, without states that an optimiser has not made yet."""
    live = {name: p for name, p in denoiser.named_parameters() if p.requires_grad}
    states = optimizers.adamw.state
    momenta = optimizers.muon.state if optimizers.muon else {}
    return {
        **{f"model/{name}": parameter.detach() for name, parameter in live.items()},
        **{f"ema/{name}": ema.average[name] for name in live},
        **{f"muon/{name}": momenta[p]["momentum"] for name, p in live.items() if p in momenta},
        **{f"adamw/{k}/{name}": states[p][k] for name, p in live.items() if p in states for k in MOMENTS},
    }


def adamw_steps(optimizer: torch.optim.Optimizer) -> int:
    """Return how many updates AdamW has made."""
    return max((int(state["step"]) for state in optimizer.state.values()), default=0)


@torch.no_grad()
def restore(
    fabric: Fabric,
    folder: Path,
    denoiser: nn.Module,
    ema: Ema,
    optimizers: Optimizers,
    schedule: TrainingSchedule,
) -> dict[str, Any]:
    """Fill everything from a checkpoint and return its state: where the run stood."""
    state: dict[str, Any] = read_json(folder / "state.json")
    if optimizers.muon:
        optimizers.muon.clear()
    for parameter in (p for group in optimizers.adamw.param_groups for p in group["params"]):
        step = torch.tensor(float(state["adamw_steps"]), device=parameter.device)
        zeros = {key: torch.zeros_like(parameter) for key in MOMENTS}
        optimizers.adamw.state[parameter] = {"step": step, **zeros}
    load_tensors(fabric, folder, run_tensors(denoiser, ema, optimizers))
    if state["schedule"]:
        schedule.restore(state["schedule"])
    return state
