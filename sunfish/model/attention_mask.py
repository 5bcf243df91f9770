"""Which positions attend to which: all, those before them, or those of their own document."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

DocumentIds = Int[Tensor, "batch pos"]


class AttentionMask(NamedTuple):
    """`allowed[b, 0, i, j]` says whether position i attends to position j; None allows all.

    `is_causal` restricts attention to j <= i. It is kept apart from `allowed`, because fused kernels are told
    it by a flag and then need no mask in memory."""

    allowed: Bool[Tensor, "batch 1 pos pos"] | None = None
    is_causal: bool = False

    def dense(self, length: int, device: torch.device) -> Bool[Tensor, "#batch 1 pos pos"] | None:
        """Return both restrictions as one mask, or None where there is none."""
        if not self.is_causal:
            return self.allowed
        lower = torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]
        return lower if self.allowed is None else lower & self.allowed


def document_mask(document: DocumentIds | None, is_causal: bool = False) -> AttentionMask:
    """Return the mask that keeps the documents of a row apart; with None a row is one document."""
    if document is None:
        return AttentionMask(None, is_causal)
    return AttentionMask((document[:, None, :] == document[:, :, None])[:, None], is_causal)


def document_ids(ids: Int[Tensor, "batch pos"], separator_id: int | None) -> DocumentIds | None:
    """Number the documents of each row from 0; the separator belongs to the document that it ends.

    None without a separator: the row is not divided."""
    if separator_id is None:
        return None
    ends = (ids == separator_id).long()
    return ends.cumsum(dim=1) - ends
