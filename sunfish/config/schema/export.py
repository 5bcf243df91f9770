"""`export`: the graphs, and how closely they are held against torch."""

from __future__ import annotations

from dataclasses import dataclass

from sunfish.errors import require

PRODUCTS = ("attention.qkv", "attention.out", "mlp.up", "mlp.down", "readout", "head", "in_proj")
WEIGHTS = (*PRODUCTS, "noise_level.out", "embedding.table")


@dataclass(frozen=True, kw_only=True)
class Int8:
    """Which kinds of layers the small graphs hold how; what is in no list stays fp32."""

    products: tuple[str, ...]  # 8-bit weights times 8-bit activations: faster and smaller
    weights: tuple[str, ...]  # 8-bit weights, computed with in fp32: smaller
    halves: tuple[str, ...]  # 16-bit weights, computed with in fp32

    def __post_init__(self) -> None:
        told = (
            ("products", PRODUCTS, self.products),
            ("weights", WEIGHTS, self.weights),
            ("halves", WEIGHTS, self.halves),
        )
        for key, allowed, names in told:
            wrong = [name for name in names if name not in allowed]
            require(not wrong, key, f"has no {', '.join(wrong)}; there are {', '.join(allowed)}")
        everything = [*self.products, *self.weights, *self.halves]
        twice = {name for name in everything if everything.count(name) > 1}
        require(
            not twice,
            "products",
            f"and the other lists name {', '.join(sorted(twice))} twice; a layer is held in one way",
        )


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
        require(
            18 <= self.opset <= 20,
            "opset",
            "must be 18, 19 or 20: newer attention nodes are slow or unknown elsewhere",
        )
        require(self.parity_texts > 0, "parity_texts", "must be at least 1")
        require(self.parity_texts_ddpm >= 0, "parity_texts_ddpm", "must not be negative")
        require(self.quality_rows > 0, "quality_rows", "must be at least 1")
        require(self.tie_margin > 0, "tie_margin", "must be above 0")
        require(self.max_relative_error > 0, "max_relative_error", "must be above 0")
