"""Optimisers and the learning-rate law: Muon on the blocks' matrices, AdamW on the rest."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from sunfish.sections.pretrain import Optim
from sunfish.training.parallel import take_over, whole


def split_parameters(model: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """Return (for Muon, for AdamW): matrices inside blocks but for the modulation's, and all else that learns."""
    muon: dict[str, nn.Parameter] = {}
    adamw: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.ndim == 2 and "blocks" in name and "modulation" not in name
            (muon if is_matrix else adamw)[name] = parameter
    return muon, adamw


class ShardedMuon(torch.optim.Optimizer):
    """Muon for sharded matrices: each process updates some of them, whole, with the library's Muon, and hands out the result.

    Newton-Schulz needs a matrix in one piece, and in bf16 it magnifies any other order of summation: this way the update is that of
    one process. Work and states are spread over the processes.

    Source: [Muon]; owners instead of replicas as in ZeRO's first stage.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr})
        self.matrices: list[nn.Parameter] = self.param_groups[0]["params"]
        wholes = [whole(p.detach()) for p in self.matrices]
        self.owned = {p: nn.Parameter(w.clone()) for k, (p, w) in enumerate(zip(self.matrices, wholes, strict=True)) if self._is_mine(k)}
        self.muon = torch.optim.Muon(list(self.owned.values()), lr=lr, weight_decay=weight_decay) if self.owned else None

    def _is_mine(self, index: int) -> bool:
        return index % dist.get_world_size() == dist.get_rank()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for parameter in self.matrices:
            gradient = whole(parameter.grad) if parameter.grad is not None else None
            if parameter in self.owned:
                self.owned[parameter].grad = gradient
        if self.muon is not None:
            self.muon.param_groups[0]["lr"] = self.param_groups[0]["lr"]
            self.muon.step()
        for index, parameter in enumerate(self.matrices):
            updated = self.owned[parameter].data if parameter in self.owned else torch.empty(parameter.shape, device=parameter.device)
            dist.broadcast(updated, src=index % dist.get_world_size())
            take_over(parameter, updated)

    def momentum(self) -> dict[nn.Parameter, torch.Tensor]:
        """Return the momentum of the matrices that this process updates."""
        states = self.muon.state if self.muon is not None else {}
        return {p: states[mine]["momentum_buffer"] for p, mine in self.owned.items() if mine in states}

    def clear(self) -> None:
        """Give every owned matrix zero momentum, for a checkpoint to fill."""
        for mine in self.owned.values():
            assert self.muon is not None
            self.muon.state[mine]["momentum_buffer"] = torch.zeros_like(mine)

    @torch.no_grad()
    def take_parameters(self) -> None:
        """Take over the parameters as they are now."""
        for parameter in self.matrices:
            now = whole(parameter.detach())
            if parameter in self.owned:
                self.owned[parameter].copy_(now)


def make_optimizers(model: nn.Module, section: Optim) -> dict[str, torch.optim.Optimizer]:
    """Return the optimisers by name. Source: [Muon]; decay on matrices only."""
    muon, adamw = split_parameters(model)
    is_sharded = any(isinstance(p, DTensor) for p in muon.values())
    make_muon = ShardedMuon if is_sharded else torch.optim.Muon
    return {
        "muon": make_muon(list(muon.values()), lr=section.muon_lr, weight_decay=section.weight_decay),
        "adamw": torch.optim.AdamW(
            list(adamw.values()),
            lr=section.adamw_lr,
            betas=(section.beta1, section.beta2),
            weight_decay=0.0,
            fused=True,
        ),
    }


def clip_gradients(model: nn.Module, max_norm: float) -> float:
    """Scale the gradients down to `max_norm` and return the norm they had, over all processes' shards."""
    return float(whole(torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)).detach())


def lr_share(step: int, steps: int, section: Optim) -> float:
    """Return the share of the peak rate: a linear warm-up, a plateau, then half a cosine down to `final_lr_share`."""
    if step < section.warmup_steps:
        return (step + 1) / section.warmup_steps
    decay_steps = section.decay_share * (steps - section.warmup_steps)
    progress = max(0.0, (step - steps + decay_steps) / decay_steps)
    return section.final_lr_share + (1 - section.final_lr_share) * 0.5 * (1 + math.cos(math.pi * progress))


def set_lr(optimizers: dict[str, torch.optim.Optimizer], section: Optim, share: float) -> None:
    """Set every optimiser's rate to `share` of its peak."""
    peaks = {"muon": section.muon_lr, "adamw": section.adamw_lr}
    for name, optimizer in optimizers.items():
        for group in optimizer.param_groups:
            group["lr"] = peaks[name] * share
