"""Optimisers and the learning-rate law: Muon on the blocks' matrices, AdamW on the rest."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn

from sunfish.sections.pretrain import Optim
from sunfish.training.muon import Muon
from sunfish.training.parallel import whole


class Optimizers(NamedTuple):
    """Both, each with its own parameters."""

    muon: Muon
    adamw: torch.optim.AdamW


def split_parameters(model: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """Return (for Muon, for AdamW): matrices inside blocks, and all else that learns."""
    muon: dict[str, nn.Parameter] = {}
    adamw: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.ndim == 2 and "blocks" in name
            (muon if is_matrix else adamw)[name] = parameter
    return muon, adamw


def make_optimizers(model: nn.Module, section: Optim, in_bf16: bool) -> Optimizers:
    """Return the optimisers; decay on matrices only."""
    muon, adamw = split_parameters(model)
    dtype = torch.bfloat16 if in_bf16 else torch.float32
    betas = section.beta1, section.beta2
    return Optimizers(
        Muon(list(muon.values()), section.muon_lr, section.weight_decay, dtype=dtype),
        torch.optim.AdamW(list(adamw.values()), lr=section.adamw_lr, betas=betas, weight_decay=0.0, fused=True),
    )


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


def set_lr(optimizers: Optimizers, section: Optim, share: float) -> None:
    """Set both optimisers' rates to `share` of their peaks."""
    for optimizer, peak in zip(optimizers, (section.muon_lr, section.adamw_lr), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = peak * share
