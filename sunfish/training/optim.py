"""Parameter groups and the learning-rate law: Muon on the blocks' matrices, AdamW on the rest."""

from __future__ import annotations

import math

import torch
from torch import nn

from sunfish.sections.pretrain import Optim


def split_parameters(model: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """Return (for Muon, for AdamW): matrices inside blocks but for the modulation's, and all else that learns."""
    muon: dict[str, nn.Parameter] = {}
    adamw: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.ndim == 2 and "blocks" in name and "modulation" not in name
            (muon if is_matrix else adamw)[name] = parameter
    return muon, adamw


def make_optimizers(model: nn.Module, section: Optim) -> dict[str, torch.optim.Optimizer]:
    """Return the optimisers by name. Source: [Muon]; decay on matrices only."""
    muon, adamw = split_parameters(model)
    return {
        "muon": torch.optim.Muon(list(muon.values()), lr=section.muon_lr, weight_decay=section.weight_decay),
        "adamw": torch.optim.AdamW(
            list(adamw.values()),
            lr=section.adamw_lr,
            betas=(section.beta1, section.beta2),
            weight_decay=0.0,
            fused=True,
        ),
    }


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
