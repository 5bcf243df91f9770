"""`export`: the graphs, and how closely they are held against torch."""

from __future__ import annotations

from dataclasses import dataclass

from sunfish.errors import ABOVE_0, AT_LEAST_1, NOT_NEGATIVE, require, require_each

PRODUCTS = ("attention.qkv", "attention.out", "mlp.up", "mlp.down", "readout", "head", "in_proj")
WEIGHTS = (*PRODUCTS, "noise_level.out", "embedding.table")


@dataclass(frozen=True, kw_only=True)
class Int8:
    """Which kinds of layers the small graphs hold how; what is in no list stays fp32."""

    products: tuple[str, ...]  # 8-bit weights times 8-bit activations: faster and smaller
    weights: tuple[str, ...]  # 8-bit weights, computed with in fp32: smaller
    halves: tuple[str, ...]  # 16-bit weights, computed with in fp32

    def __post_init__(self) -> None:
        for key, allowed in (("products", PRODUCTS), ("weights", WEIGHTS), ("halves", WEIGHTS)):
            wrong = [name for name in getattr(self, key) if name not in allowed]
            require(not wrong, key, f"has no {', '.join(wrong)}; there are {', '.join(allowed)}")
        everything = [*self.products, *self.weights, *self.halves]
        twice = ", ".join(sorted({name for name in everything if everything.count(name) > 1}))
        require(not twice, "products", f"and the other lists name {twice} twice; a layer is held in one way")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What the exported folder is written with and checked against."""

    opset: int
    int8: Int8 | None  # null: no small graphs
    parity_texts: int  # sampled by torch and by ONNX Runtime on the same noise
    parity_texts_ddpm: int  # the same by DDPM in 1,000 steps; 0: none
    quality_rows: int  # held-out rows whose bound every precision is measured on
    tie_margin: float  # logits closer than this are a near-tie: either id is right
    max_relative_error: float
    licence: str  # of the weights, said in the folder

    def __post_init__(self) -> None:
        reason = "must be 18, 19 or 20: newer attention nodes are slow or unknown elsewhere"
        require(18 <= self.opset <= 20, "opset", reason)
        require_each(self, AT_LEAST_1, "parity_texts", "quality_rows")
        require_each(self, NOT_NEGATIVE, "parity_texts_ddpm")
        require_each(self, ABOVE_0, "tie_margin", "max_relative_error")
