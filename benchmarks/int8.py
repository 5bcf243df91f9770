"""What 8 bits cost and gain, a kind of layer at a time: the bound on held-out rows, bytes, and milliseconds a
step beside fp32 in turn.

python -m benchmarks.int8 models/denoiser data/shards [--params params.yaml] [--rows 128] [--texts 0] [--kinds
default mlp.up ...]"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from benchmarks.record import interleave, record, spread
from sunfish.config.compose import check
from sunfish.evaluation.exported import bound_of, judge_of
from sunfish.evaluation.context import EvalContext
from sunfish.export.graph import export_denoiser, export_step
from sunfish.export.quantize import quantize
from sunfish.model.pretrained import StoredDenoiser
from sunfish.sampling.solvers import Given, ddim
from sunfish.config.schema.export import PRODUCTS, WEIGHTS
from sunfish.sampling.onnx_backend import OnnxNetwork, open_session

ROUNDS, STEPS = 9, 20


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


def network(graph: Path, stored: StoredDenoiser, length: int) -> OnnxNetwork:
    rng, emb = np.random.default_rng(0), stored.denoiser.section.emb_dim
    noise = lambda: rng.standard_normal((1, length, emb), dtype=np.float32)  # noqa: E731
    started = OnnxNetwork(
        open_session(graph, torch.get_num_threads()), noise, lambda: rng.random((1, length), dtype=np.float32)
    )
    started.start(ddim(stored.law, 50), Given.nothing(1, length), np.zeros((1, length), np.int64))
    return started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("denoiser", type=Path)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--rows", type=int, default=128, help="held-out rows of the bound")
    parser.add_argument("--texts", type=int, default=0, help="texts that are judged, fp32 and as configured")
    arguments = parser.parse_args()
    params = check(arguments.params)
    subject = EvalContext.read(arguments.denoiser, arguments.shards, params["data"], params["evaluate"])
    stored, length = subject.stored, subject.stored.lengths.longest
    with tempfile.TemporaryDirectory() as place, torch.no_grad():
        folder = Path(place)
        ir.save(export_denoiser(stored.denoiser, 20), folder / "model.onnx")
        ir.save(export_step(stored.denoiser, 20), folder / "step.onnx")
        exact: dict[str, float] = {}
        for name, kinds in ways(dataclasses.asdict(params["export"].int8)).items():
            for graph in ("model", "step"):
                ir.save(quantize(ir.load(folder / f"{graph}.onnx"), **kinds), folder / f"{graph}_small.onnx")
            bound = bound_of(subject, folder / "model_small.onnx", arguments.rows)["nats_per_token"]
            size = (folder / "model_small.onnx").stat().st_size
            exact = exact or {"bound": bound, "size": size}
            pair = [network(folder / f"step{end}.onnx", stored, length) for end in ("", "_small")]
            calls = [lambda walked=walked: [walked.step(1) for _ in range(STEPS)] for walked in pair]
            fp32, small = interleave(ROUNDS, fp32=calls[0], small=calls[1]).values()
            wanted = arguments.texts if name in ("fp32", "configured") else 0
            judged = (
                judge_of(subject.told(sampler="ancestral"), folder / "model_small.onnx", wanted)
                if wanted
                else {}
            )
            record(
                "int8", model=stored.denoiser.section.name, held=name, nats_per_token=round(bound, 5), rows=arguments.rows,
                bound_increase=round(bound / exact["bound"] - 1, 5), bytes_of_fp32=round(size / exact["size"], 3), length=length,
                times_fp32=spread([a / b for a, b in zip(fp32, small, strict=True)], 2),
                **{key: round(value, 4) for key, value in judged.items()}, **({"texts": wanted} if wanted else {}),
            )  # fmt: skip


if __name__ == "__main__":
    main()
