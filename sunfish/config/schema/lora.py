"""`lora`: how a fine-tuning by low-rank adapters changes the weights of its base."""

from __future__ import annotations

from dataclasses import dataclass

from sunfish.errors import require


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """W + (alpha / rank) B A on some linear layers; all else is frozen. AdamW learns A and B."""

    rank: int
    alpha: float
    dropout: float  # of what an adapter reads, in training
    target_modules: tuple[str, ...]  # ends of names; all-linear: every one but an output head
    adamw_lr: float

    def __post_init__(self) -> None:
        require(self.rank > 0, "rank", "must be at least 1")
        require(0.0 <= self.dropout < 1.0, "dropout", "must lie between 0 and 1, 1 excluded")
        require(len(self.target_modules) > 0, "target_modules", "must name a layer, or all-linear")
        for key in ("alpha", "adamw_lr"):
            require(getattr(self, key) > 0, key, "must be above 0")
