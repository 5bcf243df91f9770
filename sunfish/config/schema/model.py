"""`model`: the size of the denoiser."""

from __future__ import annotations

from dataclasses import dataclass

from sunfish.errors import AT_LEAST_1, NOT_NEGATIVE, require, require_each


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The denoiser's size; the vocabulary comes with the shards."""

    name: str
    num_layers: int
    num_heads: int
    width: int
    emb_dim: int  # of the token embeddings, the space in which the diffusion runs
    cond_dim: int  # of the hidden layer that embeds the noise level
    input_window: int  # neighbours on either side whose embeddings a position reads at the input
    tied_head: bool  # logits are products with the token embeddings instead of a matrix of their own
    output_prior: bool  # logits start from each position's exact posterior p(token | x_t)
    length_conditioning: bool  # positions are counted from the row's end, which tells the text's length

    @property
    def in_features(self) -> int:
        """Return how many numbers a position reads: its embedding, the previous estimate, the neighbours'."""
        return (2 + 2 * self.input_window) * self.emb_dim

    def __post_init__(self) -> None:
        require_each(self, AT_LEAST_1, "num_layers", "num_heads", "width", "emb_dim", "cond_dim")
        require_each(self, NOT_NEGATIVE, "input_window")
        require(self.width % self.num_heads == 0, "num_heads", f"must divide width = {self.width}")
        is_even = self.width // self.num_heads % 2 == 0
        require(is_even, "num_heads", "must leave an even width per head, for rotary positions")
