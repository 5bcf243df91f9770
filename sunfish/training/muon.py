"""Muon: momentum with all its directions made equally long, for matrices in one piece or cut into shards."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sunfish.training.parallel import like, whole

COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of the quintic that draws singular values towards 1
ITERATIONS = 5
AT_ONCE = 2**22  # entries: smaller matrices go through Newton-Schulz in batches of one shape


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay.

    Sharded matrices: each process updates some of them, whole, and hands out the result. Newton-Schulz needs
    a matrix in one piece and magnifies any other order of summation, so this way the update is that of one
    process; work and momentum are spread.

    Source: [Muon]; owners instead of replicas as in ZeRO's first stage.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        super().__init__(parameters, {"lr": lr})
        self.weight_decay, self.momentum, self.dtype = weight_decay, momentum, dtype
        self.matrices: list[nn.Parameter] = self.param_groups[0]["params"]
        shared_by = dist.get_world_size() if any(isinstance(p, DTensor) for p in self.matrices) else 1
        self.owners = [index % shared_by for index in range(len(self.matrices))]
        rank = dist.get_rank() if shared_by > 1 else 0
        self.owned = [p for p, owner in zip(self.matrices, self.owners, strict=True) if owner == rank]

    def clear(self) -> None:
        """Give every owned matrix zero momentum."""
        for parameter in self.owned:
            self.state[parameter]["momentum"] = torch.zeros(parameter.shape, device=parameter.device)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        if not self.state:
            self.clear()
        # every process must ask for every one
        whole_gradients = ((p, whole(p.grad)) for p in self.matrices if p.grad is not None)
        gradients = {p: gradient for p, gradient in whole_gradients if p in self.state}
        updates = dict(zip(gradients, self._updates(gradients), strict=True))
        lr = self.param_groups[0]["lr"]
        for parameter, owner in zip(self.matrices, self.owners, strict=True):
            if parameter.grad is None:
                continue
            update = updates.get(parameter)
            if update is None:
                update = torch.empty(parameter.shape, dtype=self.dtype, device=parameter.device)
            if isinstance(parameter, DTensor):
                dist.broadcast(update, src=owner)
                update = like(parameter, update)
            rows, columns = parameter.shape
            parameter.mul_(1 - lr * self.weight_decay)
            parameter.add_(update, alpha=-lr * max(1, rows / columns) ** 0.5)

    def _updates(self, gradients: dict[nn.Parameter, Tensor]) -> list[Tensor]:
        if not gradients:
            return []
        momenta, values = [self.state[p]["momentum"] for p in gradients], list(gradients.values())
        torch._foreach_lerp_(momenta, values, 1 - self.momentum)
        return orthogonalize(list(torch._foreach_lerp(values, momenta, self.momentum)), self.dtype)


def orthogonalize(matrices: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Return each matrix with its singular vectors and singular values near 1; like shapes go together."""
    wide = [m.mT if m.shape[0] > m.shape[1] else m for m in matrices]
    results = list(matrices)
    by_shape = sorted(range(len(wide)), key=lambda i: wide[i].shape)
    for (rows, columns), equals in groupby(by_shape, key=lambda i: wide[i].shape):
        indices, at_once = list(equals), max(1, AT_ONCE // (rows * columns))
        for start in range(0, len(indices), at_once):
            chunk = indices[start : start + at_once]
            together = newton_schulz(torch.stack([wide[i] for i in chunk]), dtype)
            for index, result in zip(chunk, together, strict=True):
                results[index] = result.mT.contiguous() if wide[index] is not matrices[index] else result
    return results


def newton_schulz(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Iterate x <- a x + b (x x^T) x + c (x x^T)^2 x on wide matrices, (stack, rows, columns). [Muon]"""
    a, b, c = COEFFICIENTS
    x = (x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)).to(dtype)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
