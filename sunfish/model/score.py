"""How likely the model finds a whole text, and of several ways to fill its gaps the likeliest."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sunfish.model.denoiser import Denoiser
from sunfish.model.embedding import Ids
from sunfish.model.inference import sample_ids
from sunfish.sampler import Given, Table


class Score(nn.Module):
    """ids -> -log p(token | the text before it) in nats, (batch, pos); 0 for the first, of which nothing is said.

    It is what a clean copy says comes next, learned with `diffusion.blocks.next_token`.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser: Any = denoiser  # and its `embed`

    def forward(self, ids: Ids) -> Float[Tensor, "batch pos"]:
        x_0, place = self.denoiser.embed(ids), torch.arange(1, ids.shape[1] + 1, device=ids.device).expand(ids.shape)
        logits = self.denoiser(x_0, torch.zeros_like(x_0[..., 0]), torch.zeros_like(x_0), place > 0, place).logits
        following = ids.roll(-1, dims=1)  # as long as the logits: GatherElements takes no shorter index
        said = logits.log_softmax(dim=-1).gather(2, following[..., None]).squeeze(-1)
        return F.pad(-said[:, :-1], (1, 0))


@torch.no_grad()
def fill_gaps(
    denoiser: Denoiser, table: Table, given: Given, rng: np.random.Generator, temperature: float, candidates: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return ids, (batch, pos), and calls, (batch,): of several fillings of each text the one that makes the text likeliest.

    A filling is written from left to right and may not fit what comes after the gap; as a whole text it is then unlikely.
    """
    several = Given(np.repeat(given.ids, candidates, axis=0), np.repeat(given.known, candidates, axis=0))
    ids, calls = sample_ids(denoiser, table, several, rng, temperature)
    if candidates == 1:
        return ids, calls
    nats = Score(denoiser)(torch.from_numpy(ids).to(next(denoiser.parameters()).device)).sum(dim=1).cpu().numpy()
    best = nats.reshape(-1, candidates).argmin(axis=1)
    apart = ids.reshape(-1, candidates, ids.shape[1])
    return apart[np.arange(len(best)), best], calls.reshape(-1, candidates).sum(axis=1)
