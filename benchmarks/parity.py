"""Whole walks on shared noise: how many ids differ between torch and the exported graphs, on many more texts than the export stage walks.

python -m benchmarks.parity models/denoiser models/onnx [--texts 1000] [--ddpm-texts 50]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.record import record
from sunfish.export.folder import parity_walks
from sunfish.export.parity import hold_against_torch, in_graph, step_by_step
from sunfish.files import read_json
from sunfish.model.store import read_denoiser
from sunfish.sampler import make_table
from sunfish.session import graph_path

TIE_MARGIN = 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("denoiser", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--ddpm-texts", type=int, default=50)
    arguments = parser.parse_args()
    stored, folder = read_denoiser(arguments.denoiser), arguments.folder
    settings = read_json(folder / "config.json")["sampler"]
    told = make_table(settings["name"], stored.law, settings["steps"], settings["eta"], settings["settle"])
    engines = {"onnxruntime, step by step": step_by_step(graph_path(folder, "step"))}
    engines["onnxruntime, one call"] = in_graph(graph_path(folder, "sampler"), "onnxruntime")
    walks = [(*walk, 1.0) for walk in parity_walks(stored, arguments.texts, arguments.ddpm_texts)]
    walks.append(("as recommended", told, arguments.texts, settings["temperature"]))
    for name, table, texts, temperature in walks:
        for row in hold_against_torch(stored, engines, name, table, texts, TIE_MARGIN, temperature):
            record("parity", model=stored.denoiser.section.name, **row, temperature=temperature, settle_above=table.settle_above)


if __name__ == "__main__":
    main()
