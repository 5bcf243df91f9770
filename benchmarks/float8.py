"""Products of the blocks in float8 (e4m3), as a GPU has them twice as fast as bf16's: what they cost in text.

python -m benchmarks.float8 models/denoiser data/shards      # on any device; how fast they are:
benchmarks.gpu_sampling"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.record import record
from sunfish.config.compose import check
from sunfish.errors import report_errors
from sunfish.evaluation.context import EvalContext
from sunfish.evaluation.held_out import measure_bound
from sunfish.model.denoiser import Denoiser

LARGEST = 448.0  # of float8 e4m3


class Float8Linear(nn.Module):
    """A product of float8 (e4m3) numbers: weights scaled by output, what comes in by position, summed the
    fast way.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.float().abs().amax(dim=1, keepdim=True) / LARGEST
        self.weight = (linear.weight.float() / scale).to(torch.float8_e4m3fn)
        self.scale = scale.T.contiguous()

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, -2)
        scale = flat.abs().amax(dim=1, keepdim=True).float().clamp(min=1e-12) / LARGEST
        inputs = (flat.float() / scale).to(torch.float8_e4m3fn)
        out = torch._scaled_mm(
            inputs,
            self.weight.T,
            scale_a=scale,
            scale_b=self.scale,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
        return out.unflatten(0, x.shape[:-1])


def use_float8(denoiser: Denoiser) -> None:
    """Replace the products of the blocks."""
    for block in denoiser.transformer.blocks:
        for part, name in (
            (block.attention, "qkv"),
            (block.attention, "out"),
            (block.mlp, "up"),
            (block.mlp, "down"),
        ):
            setattr(part, name, Float8Linear(getattr(part, name)))


@report_errors
def main() -> None:
    """Hold the same held-out rows and draws against the blocks as they are, and in float8."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("denoiser", type=Path)
    parser.add_argument("shards", type=Path)
    arguments = parser.parse_args()
    params = check(Path("params.yaml"))
    context = EvalContext.read(
        arguments.denoiser, arguments.shards, params["data"], params["evaluate"], params["sampler"]
    )
    for products in ("as they are", "float8"):
        if products == "float8":
            use_float8(context.stored.denoiser)
        bound = measure_bound(context)[1]
        kept = {key: bound[key] for key in ("nats_per_token", "nats_per_token_standard_error", "rows")}
        record("float8", products=products, **kept)


if __name__ == "__main__":
    main()
