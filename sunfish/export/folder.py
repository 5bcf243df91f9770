"""denoiser -> a self-contained folder that onnxruntime alone can sample from, held against torch before it is
kept.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch

from sunfish.config.schema.export import ExportConfig
from sunfish.config.schema.sampler import SamplerConfig
from sunfish.digests import write_digests
from sunfish.errors import UserError
from sunfish.export.card import model_card
from sunfish.export.graph import export_check, export_denoiser, export_step
from sunfish.export.loop import sampler_graph
from sunfish.export.parity import call_error, hold_against_torch, in_one_call, parity_plans, step_by_step
from sunfish.export.quantize import quantize
from sunfish.export.weights import save_graphs
from sunfish.files import replacing, write_json
from sunfish.model.pretrained import TOKENIZER_FILES, StoredDenoiser, read_denoiser
from sunfish.sampling.loop import SamplerPlan
from sunfish.sampling.onnx_backend import (
    FORMAT,
    GRAPHS,
    PLAN_COLUMNS,
    PRECISIONS,
    graph_names,
    graph_path,
    open_session,
    plan_rows,
    plan_scalars,
    weights_path,
)  # fmt: skip

REFERENCE_TEXTS, REFERENCE_STEPS, REFERENCE_ROUNDS = 2, 4, 2  # the reference evaluator is plain Python
MAX_REFERENCE_PARAMETERS, MAX_REFERENCE_VOCAB = 20_000_000, 4096  # it gathers along axes of 64 at most

Measure = Callable[[Path], dict[str, float]]  # the path of a denoiser's graph -> what is said of its text


def export_folder(
    denoiser_dir: Path,
    out_dir: Path,
    metrics_path: Path,
    config: ExportConfig,
    sampler: SamplerConfig,
    measure: Measure | None = None,
    measured: Sequence[dict[str, Any]] = (),
) -> None:
    """Write the folder, its manifest and the numbers; `sampler` is what the folder recommends.

    `measure` is put to the denoiser's graph of every precision; `measured` is how good samplers were.

    Raises:
        UserError: the graphs do not say what torch says, or the sampler checks and the model cannot; nothing
        is written then.
    """
    stored = read_denoiser(denoiser_dir)
    _require_check(stored, sampler)
    with replacing(out_dir) as folder:
        (folder / "onnx").mkdir(parents=True)
        _write_graphs(stored, folder, config)
        _write_rest(stored, folder, sampler, measured)
        numbers = {
            "parity": _hold_against_torch(stored, folder, config, sampler),
            "quality": _quality(folder, config, measure),
            "bytes": {name: _size(folder, sampler, name) for name in _precisions(config)},
        }
        manifest = {**_made_from(stored, config), **numbers}
        write_json(folder / "manifest.json", manifest)
        card = model_card(manifest, stored, config, sampler)
        (folder / "README.md").write_text(card, encoding="utf-8")
        write_digests(folder)
        write_json(metrics_path, numbers)


def _require_check(stored: StoredDenoiser, sampler: SamplerConfig) -> None:
    if sampler.check is not None and not stored.config.can_check:
        raise UserError(
            f"sampler.check: {stored.folder} did not learn to check (diffusion.check_weight was 0); "
            "set sampler.check to null, or train with a weight above 0"
        )


def _precisions(config: ExportConfig) -> tuple[str, ...]:
    return PRECISIONS if config.int8 else PRECISIONS[:1]


def _quality(folder: Path, config: ExportConfig, measure: Measure | None) -> dict[str, dict[str, float]]:
    if measure is None:
        return {}
    return {name: measure(graph_path(folder, "model", name)) for name in _precisions(config)}


def _size(folder: Path, sampler: SamplerConfig, precision: str) -> int:
    """Return the bytes of a precision's weights and of the graphs that sampling needs."""
    needed = ("step", "check") if sampler.check else ("step",)
    graphs = sum(graph_path(folder, name, precision).stat().st_size for name in needed)
    return graphs + weights_path(folder, precision).stat().st_size


def _made_from(stored: StoredDenoiser, config: ExportConfig) -> dict[str, Any]:
    versions = {"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    return {
        "parameters": sum(parameter.numel() for parameter in stored.denoiser.parameters()),
        "licence": config.licence,
        "made_from": {"model_sha256": stored.digest()},
        "versions": versions,
    }


def _write_graphs(stored: StoredDenoiser, folder: Path, config: ExportConfig) -> None:
    """Write all graphs over one file of weights, and the same in 8 bits over another."""
    make = {"model": export_denoiser, "step": export_step, "check": export_check}
    names = [name for name in make if name in graph_names(stored.config.can_check)]
    with tempfile.TemporaryDirectory() as place:
        save_graphs(
            Path(place), {name: make[name](stored.denoiser, config.opset) for name in names}, "weights"
        )
        for precision in _precisions(config):
            graphs = {name: ir.load(Path(place) / f"{name}.onnx") for name in names}
            if precision == "int8" and config.int8:
                kinds = dataclasses.asdict(config.int8)
                graphs = {name: quantize(graph, **kinds) for name, graph in graphs.items()}
            _save(stored, folder, graphs | _samplers(graphs), precision)


def _samplers(graphs: dict[str, ir.Model]) -> dict[str, ir.Model]:
    samplers = {"sampler": sampler_graph(graphs["step"])}
    return (
        samplers | {"checked_sampler": sampler_graph(graphs["step"], graphs["check"])}
        if "check" in graphs
        else samplers
    )


def _save(stored: StoredDenoiser, folder: Path, graphs: dict[str, ir.Model], precision: str) -> None:
    for name, graph in graphs.items():
        _describe(graph, stored, name, precision)
    named = {graph_path(folder, name, precision).stem: graph for name, graph in graphs.items()}
    save_graphs(folder / "onnx", named, weights_path(folder, precision).name)


def _describe(graph: ir.Model, stored: StoredDenoiser, name: str, precision: str) -> None:
    """Say in the graph itself what it is and what made it: a file is found without its folder."""
    graph.producer_name, graph.producer_version = "sunfish", str(FORMAT)
    graph.doc_string = f"SunFish {name}, {precision}: {GRAPHS[name]}"
    props = {"format": str(FORMAT), "graph": f"{name}, {precision}", "model_sha256": stored.digest()}
    graph.metadata_props.update({f"sunfish.{key}": value for key, value in props.items()})


def _hold_against_torch(
    stored: StoredDenoiser, folder: Path, config: ExportConfig, sampler: SamplerConfig
) -> dict[str, Any]:
    """Return how exact the fp32 graphs are.

    Raises:
        UserError: a call differs by more than `max_relative_error`, or a text that no near-tie explains.
    """
    open_graph = cache(lambda name: open_session(graph_path(folder, name), torch.get_num_threads()))
    error = call_error(stored, open_graph("model"), np.random.default_rng(0))
    if not error <= config.max_relative_error:
        raise UserError(
            f"the exported graph differs from torch by {error:.1e} in one call, "
            "more than export.max_relative_error allows"
        )
    engines = {
        "onnxruntime, step by step": step_by_step(open_graph),
        "onnxruntime, one call": in_one_call(folder, "onnxruntime"),
    }
    samplers = []
    for name, plan, texts in parity_plans(
        sampler, stored.schedule, config.parity_texts, config.parity_texts_ddpm
    ):
        samplers += hold_against_torch(stored, engines, name, plan, texts, config.tie_margin)
    samplers += _hold_reference(stored, folder, sampler, config.tie_margin)
    _require_alike(samplers)
    return {"relative_error_per_call": error, "samplers": samplers}


def _hold_reference(
    stored: StoredDenoiser, folder: Path, sampler: SamplerConfig, tie_margin: float
) -> list[dict[str, Any]]:
    """Hold onnx's reference evaluator against torch, in a few steps and rounds, where the model is small."""
    size = sum(parameter.numel() for parameter in stored.denoiser.parameters())
    if size > MAX_REFERENCE_PARAMETERS or stored.denoiser.vocab_size > MAX_REFERENCE_VOCAB:
        return []
    check = sampler.check and dataclasses.replace(sampler.check, steps=1, max_rounds=REFERENCE_ROUNDS)
    short = dataclasses.replace(sampler, steps=REFERENCE_STEPS, check=check)
    engines = {"onnx reference, one call": in_one_call(folder, "reference")}
    plan = SamplerPlan.make(short, stored.schedule)
    return hold_against_torch(stored, engines, "configured, shortened", plan, REFERENCE_TEXTS, tie_margin)


def _require_alike(samplers: list[dict[str, Any]]) -> None:
    for row in samplers:
        if row["different_ids"]:
            raise UserError(
                f"{row['different_ids']} of {row['ids']} ids differ between torch and {row['engine']} "
                f"({row['sampler']}); "
                "export.tie_margin says how close two logits must be to count as equal"
            )


def _write_rest(
    stored: StoredDenoiser, folder: Path, sampler: SamplerConfig, measured: Sequence[dict[str, Any]]
) -> None:
    config = stored.config
    values = {
        "format": FORMAT,
        "model": dataclasses.asdict(config.model),
        "vocab_size": config.vocab_size,
        "row_lengths": dataclasses.asdict(config.row_lengths),
        "end_id": config.end_id,
        "can_check": config.can_check,
        "sampler": sampler.to_dict(),
        "answers": config.answers and dataclasses.asdict(config.answers),
        "measured": list(measured),
    }
    write_json(folder / "config.json", values)
    write_json(folder / "noise_schedule.json", stored.schedule.to_json())
    plan = SamplerPlan.make(sampler, stored.schedule)
    rows = plan_rows(plan, stored.lengths.longest)
    write_json(
        folder / "plan.json",
        {"columns": PLAN_COLUMNS, "rows": rows.tolist(), "inputs": plan_scalars(plan)},
    )
    for name in TOKENIZER_FILES:
        shutil.copyfile(stored.folder / name, folder / name)
