"""`export`: the graphs, how closely they are held against torch, and what the folder samples with unless told
otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sunfish.errors import require
from sunfish.sampling.solvers import MAX_STEPS, SAMPLERS
from sunfish.stagger import ORDERS

PRODUCTS = ("attention.qkv", "attention.out", "mlp.up", "mlp.down", "readout", "head", "inward")
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
    """What the exported folder is written with, checked against, and what it samples with unless told
    otherwise.
    """

    opset: int
    int8: Int8 | None  # null: no small graphs
    parity_texts: (
        int  # walked by torch and by ONNX Runtime on the same noise: DDIM in 50 steps, DPM-Solver++ in 10
    )
    parity_texts_ddpm: int  # the same by DDPM in 1000 steps; 0: none
    quality_rows: int  # held-out rows whose bound every precision is measured on
    tie_margin: float  # logits closer than this are a near-tie: either id is right
    max_relative_error: float
    sampler_name: Literal["ddim", "ddpm", "ancestral", "dpm-solver", "picard"]
    sampler_steps: int
    sampler_eta: float
    sampler_temperature: float
    sampler_floor: float  # tokens less probable than this are never drawn; 0: any may be
    sampler_settle: float  # a position keeps its token above this probability; 1: none does before its end
    sampler_order: Literal["forward", "random"]
    sampler_window_steps: int  # steps that each position takes; sampler_steps or more: all at once
    sampler_candidates: int  # fillings of a gap, of which the likeliest is taken
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
        require(self.sampler_name in SAMPLERS, "sampler_name", f"must be one of {', '.join(SAMPLERS)}")
        require(
            1 <= self.sampler_steps <= MAX_STEPS, "sampler_steps", f"must lie between 1 and {MAX_STEPS:,}"
        )
        require(self.sampler_temperature > 0.0, "sampler_temperature", "must be above 0")
        require(
            0.0 < self.sampler_settle <= 1.0, "sampler_settle", "must lie above 0 and be at most 1 (1: never)"
        )
        require(
            0.0 <= self.sampler_floor < 1.0,
            "sampler_floor",
            "must be at least 0 (any token may be drawn) and below 1",
        )
        require(self.sampler_order in ORDERS, "sampler_order", f"must be one of {', '.join(ORDERS)}")
        require(self.sampler_window_steps >= 1, "sampler_window_steps", "must be at least 1")
        require(self.sampler_candidates >= 1, "sampler_candidates", "must be at least 1")
        require(0.0 <= self.sampler_eta <= 1.0, "sampler_eta", "must lie between 0 and 1")
