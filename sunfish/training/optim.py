"""Optimisers and the learning-rate law: Muon on the blocks' matrices, AdamW on the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sunfish.config.schema.pretrain import Optim
from sunfish.training.muon import Muon
from sunfish.training.parallel import whole


@dataclass(frozen=True)
class Optimizers:
    """Both, each with its own parameters; without a rate for Muon AdamW has them all."""

    section: Optim
    muon: Muon | None
    adamw: torch.optim.AdamW

    def step(self, share: float) -> None:
        """Update all parameters at `share` of the peak rates."""
        for optimizer, peak in self._with_peaks():
            for group in optimizer.param_groups:
                group["lr"] = peak * share
            optimizer.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for optimizer, _ in self._with_peaks():
            optimizer.zero_grad()

    def _with_peaks(self) -> list[tuple[torch.optim.Optimizer, float]]:
        muon = [(self.muon, self.section.muon_lr)] if self.muon and self.section.muon_lr else []
        return [*muon, (self.adamw, self.section.adamw_lr)]


def make_optimizers(model: nn.Module, section: Optim, in_bf16: bool) -> Optimizers:
    """Return the optimisers: Muon for the blocks' matrices, which alone decay, AdamW for the rest."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (matrices if parameter.ndim == 2 and "blocks" in name else others).append(parameter)
    groups: list[dict[str, Any]] = [{"params": others, "weight_decay": 0.0}]
    muon = None
    if section.muon_lr is None:
        groups.append({"params": matrices, "weight_decay": section.weight_decay})
    else:
        dtype = torch.bfloat16 if in_bf16 else torch.float32
        muon = Muon(matrices, section.muon_lr, section.weight_decay, dtype=dtype)
    adamw = torch.optim.AdamW(groups, section.adamw_lr, (section.beta1, section.beta2), fused=True)
    return Optimizers(section, muon, adamw)


def learning_bytes(model: nn.Module, optimizers: Optimizers) -> int:
    """Return how many bytes gradients and the optimisers' states take on this process."""
    tensors: list[torch.Tensor] = [p for p in model.parameters() if p.requires_grad]
    for optimizer in (optimizers.muon, optimizers.adamw):
        states = optimizer.state.values() if optimizer else ()
        tensors += [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def clip_gradients(model: nn.Module, max_norm: float) -> float:
    """Scale the gradients down to `max_norm` and return the norm they had, over all processes' shards."""
    return float(whole(torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)).detach())


def lr_share(step: int, steps: int, section: Optim) -> float:
    """Return the share of the peak rate: linear warm-up, plateau, half a cosine to `final_lr_share`."""
    if step < section.warmup_steps:
        return (step + 1) / section.warmup_steps
    decay_steps = section.decay_share * (steps - section.warmup_steps)
    progress = max(0.0, (step - steps + decay_steps) / decay_steps)
    return section.final_lr_share + (1 - section.final_lr_share) * 0.5 * (1 + math.cos(math.pi * progress))
