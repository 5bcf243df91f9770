"""`model`: the size of the denoiser."""

from __future__ import annotations

from dataclasses import dataclass

from sunfish.errors import require


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The denoiser's size; the vocabulary comes with the shards."""

    name: str
    num_layers: int
    num_heads: int
    width: int
    emb_dim: int  # width of the token embeddings that are diffused
    cond_dim: int  # width of the hidden layer through which a noise level is told
    tied_head: bool  # logits are products with the token embeddings instead of a matrix of their own
    output_prior: bool  # start the logits from each position's exact posterior
    told_before: bool  # an open position is told the word before it, as far as that is known
    # positions are counted from the row's end; if not, from its beginning, and the text says itself where it
    # ends
    told_length: bool

    @property
    def inward_dim(self) -> int:
        """Return how many numbers a position reads of words: its own, the estimate before and, if told, the
        word before it.
        """
        return (3 if self.told_before else 2) * self.emb_dim

    def __post_init__(self) -> None:
        for key in ("num_layers", "num_heads", "width", "emb_dim", "cond_dim"):
            require(getattr(self, key) > 0, key, "must be at least 1")
        require(self.width % self.num_heads == 0, "num_heads", f"must divide width = {self.width}")
        require(
            self.width // self.num_heads % 2 == 0,
            "num_heads",
            "must leave an even width per head, for rotary positions",
        )
