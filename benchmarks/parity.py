"""Whole texts on shared noise: how many ids differ between torch and the exported graphs, on many more texts
than the export stage compares.

python -m benchmarks.parity models/denoiser models/onnx [--texts 1000] [--ddpm-texts 50] python -m
benchmarks.parity --drawn tiny base          # one call of models with drawn weights, none of them zero"""

from __future__ import annotations

import argparse
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.inference import make_denoiser
from benchmarks.record import record
from sunfish.diffusion.lengths import RowLengths
from sunfish.diffusion.schedule import uniform
from sunfish.export.graph import export_denoiser
from sunfish.export.parity import call_error, hold_against_torch, in_one_call, parity_plans, step_by_step
from sunfish.export.weights import save_graphs
from sunfish.model.pretrained import FORMAT, FolderConfig, StoredDenoiser, read_denoiser
from sunfish.runtime.folder import read_config
from sunfish.sampling.onnx_backend import graph_path, open_session

TIE_MARGIN = 1e-4


def hold_drawn(model: str) -> None:
    """Record the largest relative error of a single call of a model's graph."""
    denoiser = make_denoiser(model)
    lengths = RowLengths.count([128], 128)
    config = FolderConfig(FORMAT, denoiser.config, denoiser.vocab_size, lengths, 0, can_check=False)
    stored = StoredDenoiser(denoiser, uniform(-11.0, 4.0, 2), config, Path())
    with tempfile.TemporaryDirectory() as folder:
        save_graphs(Path(folder), {"model": export_denoiser(stored.denoiser, 20)}, "weights")
        error = call_error(stored, open_session(Path(folder) / "model.onnx"), np.random.default_rng(0))
    record("parity of a call, drawn weights", model=model, relative_error=float(f"{error:.2e}"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("denoiser", type=Path, nargs="?", default=Path("models/denoiser"))
    parser.add_argument("folder", type=Path, nargs="?", default=Path("models/onnx"))
    parser.add_argument("--drawn", nargs="+", default=[], help="models with drawn weights, a call each")
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--ddpm-texts", type=int, default=50)
    arguments = parser.parse_args()
    if arguments.drawn:
        for model in arguments.drawn:
            hold_drawn(model)
        return
    stored, folder = read_denoiser(arguments.denoiser), arguments.folder
    open_graph = cache(lambda name: open_session(graph_path(folder, name)))
    engines = {"onnxruntime, step by step": step_by_step(open_graph)}
    engines["onnxruntime, one call"] = in_one_call(folder, "onnxruntime")
    sampler = read_config(folder).sampler
    for name, plan, num in parity_plans(sampler, stored.schedule, arguments.texts, arguments.ddpm_texts):
        for row in hold_against_torch(stored, engines, name, plan, num, TIE_MARGIN):
            record("parity", model=stored.denoiser.config.name, **row)


if __name__ == "__main__":
    main()
