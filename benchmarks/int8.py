"""What 8 bits cost and gain, a kind of layer at a time: the bound on held-out rows, bytes, and milliseconds a
step beside fp32 in turn.

python -m benchmarks.int8 models/denoiser data/shards [--params params.yaml] [--rows 128]"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from benchmarks.record import interleave, record, spread
from sunfish.config.compose import check
from sunfish.config.schema.export import PRODUCTS, WEIGHTS
from sunfish.config.schema.sampler import SamplerConfig
from sunfish.evaluation.context import EvalContext
from sunfish.evaluation.exported import bound_of
from sunfish.export.graph import export_denoiser, export_step
from sunfish.export.quantize import quantize
from sunfish.model.pretrained import StoredDenoiser
from sunfish.sampling.loop import Conditioning, SamplerPlan
from sunfish.sampling.noise import noise_of
from sunfish.sampling.onnx_backend import OnnxBackend, open_session

ROUNDS = 9


def ways(default: dict[str, tuple[str, ...]]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return each way of holding one kind of layer, and the configured choice for all."""
    return {
        "fp32": {"products": (), "weights": ()},
        **{f"{kind} as products": {"products": (kind,), "weights": ()} for kind in PRODUCTS},
        **{
            f"{kind} as weights": {"products": (), "weights": (kind,)}
            for kind in WEIGHTS
            if kind not in PRODUCTS
        },
        "embedding.table as halves": {"products": (), "weights": (), "halves": ("embedding.table",)},
        "all products": {"products": PRODUCTS, "weights": ()},
        "configured": default,
    }


def drafter(graph: Path, stored: StoredDenoiser, sampler: SamplerConfig, length: int) -> Callable[[], None]:
    """Return one draft of one text."""
    session, plan = open_session(graph, torch.get_num_threads()), SamplerPlan.make(sampler, stored.schedule)
    draw = noise_of([np.random.default_rng(0)], length, stored.denoiser.config.emb_dim)
    backend = OnnxBackend(lambda name: session, draw, plan)

    def run() -> None:
        backend.start(Conditioning.nothing(1, length))
        for step in range(len(plan.draft)):
            backend.denoise(plan.draft, step)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("denoiser", type=Path)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--rows", type=int, default=128, help="held-out rows of the bound")
    arguments = parser.parse_args()
    params = check(arguments.params)
    context = EvalContext.read(
        arguments.denoiser, arguments.shards, params["data"], params["evaluate"], params["sampler"]
    )
    stored, length = context.stored, context.stored.lengths.longest
    with tempfile.TemporaryDirectory() as place, torch.no_grad():
        folder = Path(place)
        ir.save(export_denoiser(stored.denoiser, 20), folder / "model.onnx")
        ir.save(export_step(stored.denoiser, 20), folder / "step.onnx")
        exact: dict[str, float] = {}
        for name, kinds in ways(dataclasses.asdict(params["export"].int8)).items():
            for graph in ("model", "step"):
                ir.save(quantize(ir.load(folder / f"{graph}.onnx"), **kinds), folder / f"{graph}_small.onnx")
            bound = bound_of(context, folder / "model_small.onnx", arguments.rows)["nats_per_token"]
            size = (folder / "model_small.onnx").stat().st_size
            exact = exact or {"bound": bound, "size": size}
            pair = [
                drafter(folder / f"step{end}.onnx", stored, params["sampler"], length)
                for end in ("", "_small")
            ]
            fp32, small = interleave(ROUNDS, fp32=pair[0], small=pair[1]).values()
            record(
                "int8", model=stored.denoiser.config.name, held=name, nats_per_token=round(bound, 5),
                rows=arguments.rows,
                bound_increase=round(bound / exact["bound"] - 1, 5),
                bytes_of_fp32=round(size / exact["size"], 3),
                length=length,
                times_fp32=spread([a / b for a, b in zip(fp32, small, strict=True)], 2),
            )  # fmt: skip


if __name__ == "__main__":
    main()
