"""Averaged weights: what is kept of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sunfish.training.parallel import local


class Ema:
    """A moving average of a model's parameters, short at first: decay = min(decay, (1 + n) / (10 + n))."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.live = dict(model.named_parameters())
        self.average = {  # what is frozen is its own average, without a copy
            name: parameter.detach().clone() if parameter.requires_grad else parameter.detach()
            for name, parameter in self.live.items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        learned = {name: parameter for name, parameter in self.live.items() if parameter.requires_grad}
        live = [local(parameter.detach()) for parameter in learned.values()]
        torch._foreach_lerp_([local(self.average[name]) for name in learned], live, 1 - decay)

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over averages from a checkpoint."""
        for name, tensor in tensors.items():
            self.average[name].copy_(tensor)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Let the model hold the averages inside the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.live.items():
            held = parameter.detach().clone()
            parameter.copy_(self.average[name])
            self.average[name].copy_(held)
