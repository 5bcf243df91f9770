"""denoiser -> a self-contained folder that onnxruntime alone can sample from, held against torch before it is
kept.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch

from sunfish.config.schema.export import ExportConfig
from sunfish.diffusion.schedule import NoiseSchedule
from sunfish.errors import UserError
from sunfish.export.card import model_card
from sunfish.export.graph import export_denoiser, export_guess, export_picard, export_score, export_step
from sunfish.export.loop import sampler_graph
from sunfish.export.parity import (
    call_error,
    has_openvino,
    hold_against_torch,
    in_graph,
    score_error,
    step_by_step,
)
from sunfish.export.quantize import quantize
from sunfish.export.weights import save_graphs
from sunfish.files import replacing, write_json
from sunfish.model.guess import Guess, read_guess
from sunfish.model.pretrained import TOKENIZER_FILES, StoredDenoiser, read_denoiser
from sunfish.sampling.onnx_backend import FORMAT, GRAPHS, PRECISIONS, graph_path, open_session, step_graph
from sunfish.sampling.solvers import COLUMNS, Table, ddim, ddpm, dpm_solver, make_table
from sunfish.text.shards import sha256

REFERENCE_TEXTS, REFERENCE_STEPS = 2, 4  # the reference evaluator is plain Python
MAX_REFERENCE_PARAMETERS = 20_000_000

Measure = Callable[[Path], dict[str, float]]  # the path of a denoiser's graph -> what is said of its text


def export_folder(
    denoiser_dir: Path,
    out_dir: Path,
    metrics_path: Path,
    section: ExportConfig,
    measure: Measure | None = None,
    guess_dir: Path | None = None,
) -> None:
    """Write the folder, its manifest and the numbers; `measure` is put to the graphs of every precision.

    With a distilled guess the folder's walks at once begin with it.

    Raises:
        UserError: the graph does not say what torch says; nothing is written then.
    """
    stored = read_denoiser(denoiser_dir)
    guess = None if guess_dir is None else read_guess(guess_dir, stored)
    with replacing(out_dir) as folder:
        (folder / "onnx").mkdir(parents=True)
        _write_graphs(stored, guess, folder / "onnx", section)
        _write_rest(stored, guess is not None, folder, section)
        manifest = {
            "format": FORMAT,
            "parameters": sum(p.numel() for p in stored.denoiser.parameters()),
            "licence": section.licence,
            "made_from": {"model_sha256": stored.digest()},
            "versions": {
                "torch": torch.__version__,
                "onnx": onnx.__version__,
                "onnxruntime": onnxruntime.__version__,
            },
            "parity": _hold_against_torch(stored, folder, section),
            "quality": {name: measure(graph_path(folder, "model", name)) for name in _precisions(section)}
            if measure
            else {},
        }
        (folder / "README.md").write_text(
            model_card(manifest, stored, section, {path.stem for path in (folder / "onnx").iterdir()}),
            encoding="utf-8",
        )
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        step = step_graph(recommended_table(stored.law, recommend(section)))
        sizes = {name: _size(folder, step, name) for name in _precisions(section)}
        told = {
            "bytes": sizes,
            "sha256": {path.relative_to(folder).as_posix(): sha256(path) for path in files},
        }
        write_json(folder / "manifest.json", {**manifest, **told})
        write_json(
            metrics_path, {"parity": manifest["parity"], "quality": manifest["quality"], "bytes": sizes}
        )


def _precisions(section: ExportConfig) -> tuple[str, ...]:
    return PRECISIONS if section.int8 else PRECISIONS[:1]


def _size(folder: Path, step: str, precision: str) -> int:
    """Return the bytes of a precision's weights and the graph that is sampled with: what sampling needs."""
    return (
        graph_path(folder, step, precision).stat().st_size
        + graph_path(folder, "model", precision).with_suffix(".onnx_data").stat().st_size
    )


def _write_graphs(stored: StoredDenoiser, guess: Guess | None, folder: Path, section: ExportConfig) -> None:
    """Write denoiser, steps, score and samplers over one file of weights, and the same in 8 bits over
    another.
    """
    with tempfile.TemporaryDirectory() as place:
        make = {"model": export_denoiser, "step": export_step, "picard": export_picard, "score": export_score}
        exact = {name: export(stored.denoiser, section.opset) for name, export in make.items()}
        exact["body"] = export_step(stored.denoiser, section.opset, in_loop=True)
        if guess is not None:
            exact["guess"] = export_guess(guess, section.opset)
        save_graphs(Path(place), exact, "weights")
        graphs = [
            {name: ir.load(Path(place) / f"{name}.onnx") for name in exact} for _ in _precisions(section)
        ]
        if section.int8:
            kinds = dataclasses.asdict(section.int8)
            graphs[1] = {name: quantize(graph, **kinds) for name, graph in graphs[1].items()}
        for precision, pair in zip(_precisions(section), graphs, strict=True):
            pair |= {
                "sampler": sampler_graph(pair.pop("body")),
                "picard_sampler": sampler_graph(pair["picard"]),
            }
            for name, graph in pair.items():
                _describe(graph, stored, f"{name}, {precision}")
            names = {graph_path(folder, name, precision).stem: graph for name, graph in pair.items()}
            save_graphs(folder, names, graph_path(folder, "model", precision).with_suffix(".onnx_data").name)


def _describe(graph: ir.Model, stored: StoredDenoiser, what: str) -> None:
    """Say in the graph itself what it is and what made it: a file is found without its folder."""
    graph.producer_name, graph.producer_version = "sunfish", str(FORMAT)
    graph.doc_string = f"SunFish {what}: {GRAPHS[what.split(',')[0]]}"
    graph.metadata_props.update(
        {"sunfish.format": str(FORMAT), "sunfish.graph": what, "sunfish.model_sha256": stored.digest()}
    )


def _hold_against_torch(stored: StoredDenoiser, folder: Path, section: ExportConfig) -> dict[str, Any]:
    """Return how exact the fp32 graphs are, or raise a UserError."""
    model, score = (
        open_session(graph_path(folder, name), torch.get_num_threads()) for name in ("model", "score")
    )
    error = max(
        call_error(stored, model, np.random.default_rng(0)),
        score_error(stored, score, np.random.default_rng(0)),
    )
    if not error <= section.max_relative_error:
        raise UserError(
            f"the exported graph differs from torch by {error:.1e} in one call, more than export.max_relative_error allows"
        )
    engines = {
        "onnxruntime, step by step": step_by_step(folder),
        "onnxruntime, one call": in_graph(folder, "onnxruntime"),
    }
    others = {"openvino, one call": in_graph(folder, "openvino")} if has_openvino() else {}
    if sum(p.numel() for p in stored.denoiser.parameters()) <= MAX_REFERENCE_PARAMETERS:
        others["onnx reference, one call"] = in_graph(folder, "reference")
    walks = []
    for name, table, texts in parity_walks(
        stored.law, recommend(section), section.parity_texts, section.parity_texts_ddpm
    ):
        walks += hold_against_torch(stored, engines, name, table, texts, section.tie_margin)
    if others:
        walks += hold_against_torch(
            stored, others, "ddim", ddim(stored.law, REFERENCE_STEPS), REFERENCE_TEXTS, section.tie_margin
        )
    return {"relative_error_per_call": error, "walks": walks}


def parity_walks(
    law: NoiseSchedule, recommended: dict[str, Any], texts: int, texts_ddpm: int
) -> list[tuple[str, Table, int]]:
    """Return the walks that are compared, the founding ones and the recommended one: name, table, number of
    texts.
    """
    walks = [
        ("ddim", ddim(law, 50), texts),
        ("dpm-solver", dpm_solver(law, 10), texts),
        ("ddpm", ddpm(law, 1000), texts_ddpm),
    ]
    return [
        walk
        for walk in [*walks, ("as recommended", recommended_table(law, recommended), texts)]
        if walk[2] > 0
    ]


def recommend(section: ExportConfig) -> dict[str, Any]:
    """Return what the folder samples with unless told otherwise."""
    names = ("name", "steps", "eta", "temperature", "floor", "settle", "order", "window_steps", "candidates")
    return {name: getattr(section, f"sampler_{name}") for name in names}


def recommended_table(law: NoiseSchedule, recommended: dict[str, Any]) -> Table:
    """Return the table of what `recommend` returned."""
    return make_table(
        recommended["name"],
        law,
        *(recommended[name] for name in ("steps", "eta", "settle", "window_steps", "order", "floor")),
    )


def _write_rest(stored: StoredDenoiser, has_guess: bool, folder: Path, section: ExportConfig) -> None:
    denoiser = stored.denoiser
    sampler = recommend(section)
    sizes = {
        "vocab_size": denoiser.vocab_size,
        "row_lengths": stored.lengths.to_json(),
        "end_id": stored.end_id,
    }
    write_json(
        folder / "config.json",
        {"model": dataclasses.asdict(denoiser.section), **sizes, "sampler": sampler, "guess": has_guess},
    )
    write_json(folder / "noise_law.json", stored.law.to_json())
    table = recommended_table(stored.law, sampler)
    write_json(
        folder / "table.json", {"columns": COLUMNS, "rows": table.rows().tolist(), "steps": len(table)}
    )
    for name in TOKENIZER_FILES:
        shutil.copyfile(stored.folder / name, folder / name)
