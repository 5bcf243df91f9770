"""The exported graphs, and the folder that holds them."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from sunfish.config.schema.export import Int8
from sunfish.errors import InvalidValue, UserError
from sunfish.export import folder as exporting
from sunfish.export import quantize as quantization
from sunfish.export.folder import export_folder
from sunfish.export.measured import read_measured
from sunfish.export.parity import relative_error
from sunfish.export.quantize import kind_of_weight, quantize
from sunfish.export.weights import content, save_graphs
from sunfish.files import read_json, write_json
from sunfish.model.pretrained import StoredDenoiser
from sunfish.sampling.onnx_backend import GRAPHS, PLAN_COLUMNS, graph_path, open_session, weights_path
from tests.exports import CHECKED, EXPORT

pytest_plugins = ["tests.exports"]

STEP_INPUTS = [
    "x", "x_0_prev", "ids", "known", "noise", "uniforms", "coefficients", "confidence_threshold",
    "epsilon_cutoff", "draws_tokens", "temperature",
]  # fmt: skip
SAMPLER_INPUTS = [
    "noise", "uniforms", "plan", "ids", "known", "temperature", "confidence_threshold", "epsilon_cutoff",
    "draws_tokens",
]  # fmt: skip
INPUTS = {
    "model": ["x_t", "logsnr", "x_0_prev", "known", "temperature"],
    "step": STEP_INPUTS,
    "check": ["ids", "given", "noise", "uniforms", "epsilon", "logsnr", "temperature"],
    "sampler": SAMPLER_INPUTS,
    "checked_sampler": [*SAMPLER_INPUTS, "epsilon"],
}


@pytest.mark.parametrize("name", GRAPHS)
def test_the_graphs_take_any_batch_and_length_and_name_their_weights(graphs: Path, name: str) -> None:
    onnx.checker.check_model(str(graph_path(graphs, name)), full_check=True)
    graph = onnx.load(graph_path(graphs, name), load_external_data=False).graph
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.input}
    assert [v.name for v in graph.input] == INPUTS[name]
    assert shapes["ids" if "ids" in shapes else "known"] == ["batch", "pos"]
    assert shapes["temperature"] == ["batch"]
    assert {"transformer.blocks.1.mlp.up.weight.T", "embedding.table"} <= {w.name for w in graph.initializer}
    assert not any(node.metadata_props for node in graph.node)  # the exporter's stack traces


def test_all_graphs_share_one_file_of_weights(drawn: StoredDenoiser, graphs: Path) -> None:
    size = sum(p.numel() * 4 for p in drawn.denoiser.parameters())
    assert weights_path(graphs).stat().st_size < 1.3 * size
    assert all(graph_path(graphs, name).stat().st_size < 200_000 for name in GRAPHS)


def test_eight_bits_stay_near(graphs: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, previous = rng.standard_normal((2, 1, 9, 16), dtype=np.float32)
    inputs = {
        "x_t": x,
        "logsnr": np.zeros(1, np.float32),
        "x_0_prev": previous,
        "known": np.zeros((1, 9), bool),
    }
    inputs["temperature"] = np.ones(1, np.float32)
    exact = open_session(graph_path(graphs, "model")).run(["logits"], inputs)[0]
    products = ("attention.qkv", "attention.out", "mlp.up", "mlp.down", "readout", "in_proj")
    for kinds in (
        (products, ("noise_level.out",), ("embedding.table",)),
        ((), ("readout",), ()),
        ((), (), ("readout",)),
        (("mlp.up",), (), ()),
    ):
        small = quantize(ir.load(graph_path(graphs, "model")), *kinds)
        save_graphs(tmp_path, {"small": small}, "weights")
        error = relative_error(exact, open_session(tmp_path / "small.onnx").run(["logits"], inputs)[0])
        assert 0.0 < error < 0.1, kinds


def test_a_graph_too_large_for_one_file_is_quantised_alike(
    graphs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    held = []
    for most in (quantization.MAX_PROTOBUF, 0):
        monkeypatch.setattr(quantization, "MAX_PROTOBUF", most)
        small = quantize(ir.load(graph_path(graphs, "step")), ("mlp.up",), ("readout",), ("embedding.table",))
        weights = small.graph.initializers.values()
        held.append({str(value.name): content(value.const_value.numpy()) for value in weights})
        save_graphs(tmp_path, {"step": small}, "weights")
        open_session(tmp_path / "step.onnx")
    assert held[0] == held[1]


def test_kinds_are_told_by_the_names_of_weights() -> None:
    names = {
        "transformer.blocks.11.mlp.up.weight.T": "mlp.up",
        "noise_level.out.weight_Transposed": "noise_level.out",
        "embedding.table": "embedding.table",
        "readout.weight.T": "readout",
        "in_proj.weight.T": "in_proj",
    }
    assert {name: kind_of_weight(name) for name in names} == names


def test_a_layer_is_held_in_one_way() -> None:
    with pytest.raises(InvalidValue, match=r"has no mlp; there are attention\.qkv"):
        Int8(products=("mlp",), weights=(), halves=())
    with pytest.raises(InvalidValue, match=r"name mlp\.up twice"):
        Int8(products=("mlp.up",), weights=("mlp.up",), halves=())


def test_the_folder_records_its_parity(folder: Path) -> None:
    manifest = read_json(folder / "manifest.json")
    rows = manifest["parity"]["samplers"]
    assert {row["engine"] for row in rows} == {
        "onnxruntime, step by step", "onnxruntime, one call", "onnx reference, one call",
    }  # fmt: skip
    compared = {(row["sampler"], row["solver"], row["steps"]) for row in rows}
    assert {("ddim", "ddim", 50), ("dpmpp-2m", "dpmpp-2m", 10)} <= compared
    assert {"configured", "configured, without check"} <= {row["sampler"] for row in rows}
    assert [row for row in rows if row["different_ids"]] == []
    assert manifest["parity"]["relative_error_per_call"] < 1e-5
    assert manifest["bytes"]["int8"] < manifest["bytes"]["fp32"]
    assert read_json(folder.parent / "export.json") == {
        key: manifest[key] for key in ("parity", "quality", "bytes")
    }
    assert manifest["quality"] == {
        "fp32": {"nats_per_token": 1.0, "rows": 2},
        "int8": {"nats_per_token": 1.0, "rows": 2},
    }
    props = onnx.load(folder / "onnx" / "step.onnx", load_external_data=False).metadata_props
    found = {prop.key: prop.value for prop in props}["sunfish.model_sha256"]
    assert found == manifest["made_from"]["model_sha256"]


def test_the_recommended_sampler_is_the_configured_one(folder: Path) -> None:
    config = read_json(folder / "config.json")
    assert config["sampler"] == CHECKED.to_dict() and config["can_check"] is True


def test_a_graph_that_differs_is_not_kept(
    denoiser_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_write_graphs", lambda *_: None)
    monkeypatch.setattr(exporting, "open_session", lambda *_: None)
    monkeypatch.setattr(exporting, "call_error", lambda *_: float("nan"))
    with pytest.raises(UserError, match="differs from torch by nan"):
        export_folder(denoiser_dir, tmp_path / "onnx", tmp_path / "m.json", EXPORT, CHECKED)
    assert list(tmp_path.iterdir()) == []


def test_ids_that_differ_are_refused() -> None:
    row = {"engine": "an engine", "sampler": "ddim", "ids": 10, "different_ids": 1}
    with pytest.raises(UserError, match="1 of 10 ids differ between torch and an engine"):
        exporting._require_alike([row])


def test_a_check_that_was_not_learned_is_refused(drawn: StoredDenoiser) -> None:
    config = dataclasses.replace(drawn.config, can_check=False)
    with pytest.raises(UserError, match="did not learn to check"):
        exporting._require_check(dataclasses.replace(drawn, config=config), CHECKED)


def test_the_card_s_script_runs_with_plain_onnxruntime(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    script = card.split("```python\n")[1].split("```")[0]
    assert "sunfish" not in script
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("[")
    assert tuple(json.loads((folder / "plan.json").read_text())["columns"]) == PLAN_COLUMNS


def test_what_an_evaluation_found_is_read_by_the_samplers_names(tmp_path: Path) -> None:
    numbers = {"stories_consistent": 0.5, "sentences_valid": 0.9}
    tables = {
        "samplers": {"ddim-50": numbers, "ddpm-64-kept-0.9": numbers},
        "plain_by_steps": {"ddpm-categorical-8": {}},
        "checked_by_steps": {"ddpm-categorical-8-checked": numbers},
    }
    write_json(tmp_path / "evaluate.json", {"about": {"model_sha256": "a"}, **tables})
    shares = {"consistent": 0.5, "valid": 0.9}
    assert read_measured(tmp_path / "evaluate.json", "a") == [
        {"sampler": "ddim", "steps": 50, "check": False, **shares},
        {"sampler": "ddpm-categorical", "steps": 8, "check": False, "consistent": None, "valid": None},
        {"sampler": "ddpm-categorical", "steps": 8, "check": True, **shares},
    ]
    with pytest.raises(UserError, match="of another model"):
        read_measured(tmp_path / "evaluate.json", "b")
