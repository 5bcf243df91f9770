"""What the twins minimise, how likely they find a text, and how they write one."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sunfish.model.baseline import Baseline
from sunfish.diffusion.schedule import draw_times
from sunfish.config.schema.data import DataConfig


def text_end(data: DataConfig, end_id: int) -> int | None:
    """Return the token behind which a row says nothing more; None where rows are a stream of documents."""
    return end_id if data.rows == "documents" else None


def row_nats(
    twin: Baseline,
    ids: np.ndarray,
    end_id: int | None,
    rng: np.random.Generator,
    times: np.ndarray | None = None,
) -> Tensor:
    """Return -log p of each row of ids, (rows,): exact up to its end, or an unbiased draw of the masked
    twin's bound.
    """
    target = torch.from_numpy(ids).to(twin.head_bias.device)
    if twin.kind == "autoregressive":
        begun = torch.cat((target.new_full((len(ids), 1), twin.special), target[:, :-1]), dim=1)
        return (token_nats(twin(begun), target) * said(target, end_id)).sum(dim=1)
    times = 1.0 - draw_times(len(ids), rng) if times is None else times  # in (0, 1]
    masked = torch.from_numpy(rng.random(ids.shape) < times[:, None]).to(target.device)
    logits = twin(torch.where(masked, twin.special, target))
    return (token_nats(logits, target) * masked).sum(dim=1) / torch.from_numpy(times).float().to(
        target.device
    )


def token_nats(logits: Tensor, target: Tensor) -> Tensor:
    """Return -log p of each token, (rows, pos)."""
    return F.cross_entropy(logits.float().flatten(0, 1), target.flatten(), reduction="none").view(
        target.shape
    )


def said(ids: Tensor, end_id: int | None) -> Tensor:
    """Return which positions belong to the text: up to the first end token, that one included, or all."""
    if end_id is None:
        return torch.ones_like(ids, dtype=torch.bool)
    ends = (ids == end_id).long()
    return ends.cumsum(dim=1) - ends == 0


def train_loss(twin: Baseline, ids: np.ndarray, end_id: int | None, rng: np.random.Generator) -> Tensor:
    """Return nats per token: of the text (autoregressive) or of all positions (masked: MDLM's bound with
    linear masking).

    Source: [MDLM] eq. 8; its SUBS rules hold by construction: the mask has no logit, and what is not masked
    gets no loss."""
    nats = row_nats(twin, ids, end_id, rng)
    tokens = said(torch.from_numpy(ids), end_id).sum() if twin.kind == "autoregressive" else ids.size
    return nats.sum() / tokens


def draw_tokens(logits: Tensor, temperature: float, floor: float, rng: np.random.Generator) -> Tensor:
    """Draw a token a position in float64: float32 would lower the temperature; none less probable than
    `floor`, unless all are.
    """
    probabilities = (logits.double() / temperature).softmax(dim=-1)
    least = probabilities.amax(dim=-1, keepdim=True).clamp(max=floor)
    reached = torch.where(probabilities >= least, probabilities, 0.0).cumsum(dim=-1)
    chance = torch.from_numpy(rng.random(logits.shape[:-1])).to(logits.device)
    return (reached <= chance[..., None] * reached[..., -1:]).sum(dim=-1)


@torch.no_grad()
def write_rows(
    twin: Baseline,
    num: int,
    length: int,
    num_steps: int,
    temperature: float,
    floor: float,
    end_id: int | None,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return `num` rows: word by word up to `length`, or unmasked in `num_steps` by ancestral sampling.
    Source: [MDLM] section 3.3.
    """
    device = twin.head_bias.device
    if twin.kind == "autoregressive":
        ids = torch.full((num, length + 1), twin.special, device=device)
        for position in range(length):
            logits = twin(ids[:, : position + 1])[:, -1]
            ids[:, position + 1] = draw_tokens(logits, temperature, floor, rng)
        if end_id is not None:
            ids[:, -1] = torch.where((ids[:, 1:] == end_id).any(dim=1), ids[:, -1], end_id)
        return ids[:, 1:].cpu().numpy()
    ids = torch.full((num, length), twin.special, device=device)
    for t, s in zip(np.linspace(1, 0, num_steps + 1)[:-1], np.linspace(1, 0, num_steps + 1)[1:], strict=True):
        drawn = draw_tokens(twin(ids), temperature, floor, rng)
        shown = torch.from_numpy(rng.random((num, length)) < (t - s) / t).to(device) & (ids == twin.special)
        ids = torch.where(shown, drawn, ids)
    return ids.cpu().numpy()
