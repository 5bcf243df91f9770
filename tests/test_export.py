"""The exported graphs say what torch says, by every program that runs them."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from sunfish.model.guess import start_guess
from sunfish.model.score import Score

from sunfish.config.schema.export import Int8
from sunfish.diffusion.lengths import RowLengths
from sunfish.diffusion.process import add_noise
from sunfish.diffusion.schedule import uniform
from sunfish.errors import InvalidValue, UserError
from sunfish.export import quantize as quantization
from sunfish.export.folder import export_folder
from sunfish.export.graph import export_denoiser, export_guess, export_picard, export_score, export_step
from sunfish.export.loop import sampler_graph
from sunfish.export.parity import (
    Walk,
    hold_against_torch,
    in_graph,
    relative_error,
    score_error,
    step_by_step,
)
from sunfish.export.quantize import kind_of_weight, quantize
from sunfish.export.weights import content, save_graphs
from sunfish.files import read_json
from sunfish.model.attention_mask import OPEN
from sunfish.model.denoiser import Denoiser, init_weights
from sunfish.model.pretrained import StoredDenoiser
from sunfish.sampling.onnx_backend import GRAPHS, OnnxNetwork, graph_path, open_session
from sunfish.sampling.solvers import COLUMNS, Given, finish, make_table, walk
from sunfish.sampling.torch_backend import sample_ids
from tests.test_model import SMALL

LAW = uniform(-8, 4, 2)


@pytest.fixture(scope="module", params=["tied", "untied", "untied, no prior"])
def stored(request: pytest.FixtureRequest) -> StoredDenoiser:
    """A denoiser of every make, its zero-initialised weights drawn too, so that everything matters."""
    tied = request.param == "tied"  # as the default is, which is not told the word before either
    section = dataclasses.replace(
        SMALL, tied_head=tied, told_before=not tied, output_prior="no prior" not in request.param
    )
    denoiser = Denoiser(section, 41, 0)
    init_weights(denoiser, 0)
    generator = torch.Generator().manual_seed(1)
    for parameter in denoiser.parameters():
        if not parameter.any():
            parameter.data = (
                torch.randn(parameter.shape, generator=generator) * 0.3 * parameter.shape[-1] ** -0.5
            )
    return StoredDenoiser(
        denoiser.eval().requires_grad_(False), LAW, RowLengths.count([6, 12], 12), 0, Path()
    )


@pytest.fixture(scope="module")
def graphs(stored: StoredDenoiser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    (folder / "onnx").mkdir()
    make = {"model": export_denoiser, "score": export_score, "step": export_step, "picard": export_picard}
    made = {name: export(stored.denoiser, 20) for name, export in make.items()}
    made["guess"] = export_guess(
        start_guess(stored, 0), 20
    )  # walks at once begin with it, and come to the same ids
    body = export_step(stored.denoiser, 20, in_loop=True)
    save_graphs(
        folder / "onnx",
        {**made, "sampler": sampler_graph(body), "picard_sampler": sampler_graph(made["picard"])},
        "w",
    )
    return folder


@pytest.mark.parametrize("level", [-16.0, -11.0, 0.0, 4.0])
def test_a_call_is_as_exact_as_torch_s_at_every_noise_level(
    stored: StoredDenoiser, graphs: Path, level: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    x_0, levels = (
        stored.denoiser.embed(torch.randint(41, (4, 12), generator=generator)),
        torch.full((4, 12), level),
    )
    x = 100 * add_noise(
        x_0, torch.randn(x_0.shape, generator=generator), levels
    )  # a hundred times too large, so that alpha matters
    told = (
        x,
        levels,
        torch.zeros_like(x),
        torch.zeros(4, 12, dtype=torch.bool),
        torch.full((4, 12), OPEN),
        torch.ones(4),
    )
    names = ("x_t", "logsnr", "x_0_prev", "known", "turn", "temperature")
    logits = open_session(graph_path(graphs, "model")).run(
        ["logits"], {k: v.numpy() for k, v in zip(names, told, strict=True)}
    )[0]
    assert relative_error(stored.denoiser(*told).logits.numpy(), logits) < 2e-6


@pytest.mark.parametrize("program", ["onnxruntime", "reference", "openvino", "step by step"])
@pytest.mark.parametrize(
    ("name", "settle", "window", "order"),
    [
        ("ddim", 1.0, 8, "forward"),
        ("ddpm", 1.0, 8, "forward"),
        ("dpm-solver", 1.0, 3, "forward"),
        ("ddpm", 0.2, 8, "forward"),
        ("ddpm", 1.0, 3, "random"),
        ("ddim", 1.0, 2, "forward"),
        ("ancestral", 1.0, 4, "forward"),
        ("ancestral", 0.2, 3, "random"),
        ("picard", 1.0, 1, "forward"),
        ("picard", 1.0, 1, "random"),
    ],
)
def test_every_program_walks_as_torch_does(
    stored: StoredDenoiser, graphs: Path, program: str, name: str, settle: float, window: int, order: str
) -> None:
    if program == "openvino":
        pytest.importorskip("openvino")
    engine = step_by_step(graphs) if program == "step by step" else in_graph(graphs, program)
    floor = 0.02 if name in ("ancestral", "picard") else 0.0
    steps = (
        40 if (name, program) == ("picard", "step by step") else 8
    )  # torch has no guess here: both must come to the text's end
    table = make_table(name, LAW, steps, 0.0, settle, window, order, floor)
    (row,) = hold_against_torch(stored, {program: engine}, name, table, 3, 1e-4, 0.7)
    assert row["ids"] == 36 and row["different_ids"] == 0 and row["near_ties"] == 0


@pytest.mark.parametrize("steps", [1, 2, 5, 8])
def test_a_walk_that_is_cut_short_guesses_as_torch_does(
    stored: StoredDenoiser, graphs: Path, steps: int
) -> None:
    table, given = make_table("picard", LAW, steps, floor=0.02), Given.nothing(3, 12)
    given.known[:, 5] = True
    ours, _ = sample_ids(stored.denoiser, table, given, np.random.default_rng(0), 0.7, start_guess(stored, 0))
    rng = np.random.default_rng(0)
    place, shape = table.places(given.known, rng), given.ids.shape
    noise = lambda: rng.standard_normal((*shape, stored.denoiser.section.emb_dim), dtype=np.float32)  # noqa: E731
    step, guess = (open_session(graph_path(graphs, name)) for name in ("picard", "guess"))
    network = OnnxNetwork(step, noise, lambda: rng.random(shape, dtype=np.float32), 0.7, guess)
    assert np.array_equal(finish(table, network, given, place), ours)
    if steps == 2:
        without, _ = sample_ids(stored.denoiser, table, given, np.random.default_rng(0), 0.7)
        assert not np.array_equal(ours, without)  # the guess was asked, and shows


def test_texts_that_have_settled_are_left_out_and_stay(graphs: Path) -> None:
    known = np.zeros((6, 12), bool)
    known[:5, 1:] = True  # done in a call or two, the last one is not
    given, table = Given(np.ones((6, 12), np.int64), known), make_table("picard", LAW, 100, floor=0.02)
    rng, session = np.random.default_rng(1), open_session(graph_path(graphs, "picard"))
    place, noise = table.places(known, rng), rng.standard_normal((6, 12, 16), dtype=np.float32)
    chance = rng.uniform(0.3, 1.0, (6, 12)).astype(np.float32)  # never so low that a text ends at once
    network, computed, looks = (
        OnnxNetwork(session, lambda: noise, lambda: chance),
        list[int](),
        list[np.ndarray](),
    )
    for _ in walk(table, network, given, place):
        computed.append(len(network.rows))
        looks.append(network.look().ids[:5])
    alone = OnnxNetwork(session, lambda: noise[5:], lambda: chance[5:])
    assert np.array_equal(
        network.look().ids[5:], finish(table, alone, Given(given.ids[5:], known[5:]), place[5:])
    )
    assert computed[0] == 6 and computed[-1] == 1 and network.look().known.all()
    assert all(np.array_equal(look, looks[2]) for look in looks[2:])


def test_every_program_finds_a_text_as_likely(stored: StoredDenoiser, graphs: Path) -> None:
    ids, path = np.random.default_rng(0).integers(41, size=(3, 9)), graph_path(graphs, "score")
    ours = Score(stored.denoiser)(torch.from_numpy(ids)).numpy()
    assert score_error(stored, open_session(path), np.random.default_rng(0)) < 1e-5
    assert relative_error(ours, ReferenceEvaluator(str(path)).run(["nats"], {"ids": ids})[0]) < 1e-5
    openvino = pytest.importorskip("openvino")
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert relative_error(ours, compiled({"ids": ids})[0]) < 1e-5


def test_parity_can_fail(stored: StoredDenoiser) -> None:
    def wrong(walk: Walk) -> np.ndarray:
        return np.full(walk.given.ids.shape, 17)

    (row,) = hold_against_torch(stored, {"wrong": wrong}, "ddim", make_table("ddim", LAW, 3), 2, 1e-4)
    assert row["different_ids"] > 12
    (row,) = hold_against_torch(stored, {"wrong": wrong}, "ddim", make_table("ddim", LAW, 3), 2, 1e9)
    assert row["different_ids"] == 0 and row["near_ties"] > 12


def test_what_is_known_stays_in_every_program(stored: StoredDenoiser, graphs: Path) -> None:
    table = make_table("ancestral", LAW, 8, window_steps=4, order="random")
    rng = np.random.default_rng(0)
    given = Given(rng.integers(41, size=(2, 9)), rng.random((2, 9)) < 0.5)
    place = table.places(given.known, rng)
    noise = rng.standard_normal((table.num_draws, 2, 9, 16), dtype=np.float32)
    walk = Walk(table, given, place, noise, rng.random(noise.shape[:3], dtype=np.float32), 1.0)
    for engine in (step_by_step(graphs), in_graph(graphs, "onnxruntime"), in_graph(graphs, "reference")):
        assert (engine(walk)[given.known] == given.ids[given.known]).all()


def test_the_graphs_take_any_batch_and_length_and_name_their_weights(graphs: Path) -> None:
    for name, inputs in (
        ("model", ["x_t", "logsnr", "x_0_prev", "known", "turn", "temperature"]),
        (
            "step",
            [
                "x",
                "x_0_prev",
                "ids",
                "known",
                "age",
                "noise",
                "chance",
                "table",
                "place",
                "left",
                "temperature",
            ],
        ),
        (
            "picard",
            [
                "x",
                "x_0_prev",
                "ids",
                "known",
                "age",
                "noise",
                "chance",
                "table",
                "place",
                "left",
                "temperature",
            ],
        ),
        (
            "guess",
            [
                "x",
                "x_0_prev",
                "ids",
                "known",
                "age",
                "noise",
                "chance",
                "table",
                "place",
                "left",
                "temperature",
            ],
        ),
        ("score", ["ids"]),
        ("sampler", ["noise", "chance", "table", "steps", "place", "ids", "known", "temperature"]),
        ("picard_sampler", ["noise", "chance", "table", "steps", "place", "ids", "known", "temperature"]),
    ):
        onnx.checker.check_model(str(graph_path(graphs, name)), full_check=True)
        graph = onnx.load(graph_path(graphs, name), load_external_data=False).graph
        shapes = {
            v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
            for v in [*graph.input, *graph.output]
        }
        assert [v.name for v in graph.input] == inputs
        assert shapes["ids" if name == "score" else "known"] == ["batch", "pos"]
        assert name == "score" or shapes["temperature"] == ["batch"]
        weights = {i.name for i in graph.initializer}
        assert {"transformer.blocks.1.mlp.up.weight.T", "embedding.table"} <= weights
        assert not any(node.metadata_props for node in graph.node)  # the exporter's stack traces


def test_all_graphs_share_one_file_of_weights(stored: StoredDenoiser, graphs: Path) -> None:
    size = sum(p.numel() * 4 for p in stored.denoiser.parameters())
    assert (
        graphs / "onnx" / "w"
    ).stat().st_size < 1.3 * size  # the guess adds a few: here it is the denoiser's weights and a chance's
    assert all(graph_path(graphs, name).stat().st_size < 200_000 for name in GRAPHS)


def test_eight_bits_stay_near(stored: StoredDenoiser, tmp_path: Path) -> None:
    ir.save(export_denoiser(stored.denoiser, 20), tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    x, previous = rng.standard_normal((2, 1, 9, 16), dtype=np.float32)
    told = {
        "x_t": x,
        "logsnr": np.zeros((1, 9), np.float32),
        "x_0_prev": previous,
        "known": np.zeros((1, 9), bool),
    }
    told |= {"turn": np.full((1, 9), OPEN), "temperature": np.ones(1, np.float32)}
    exact = open_session(tmp_path / "model.onnx").run(["logits"], told)[0]
    products = ("attention.qkv", "attention.out", "mlp.up", "mlp.down", "readout", "inward")
    for kinds in (
        (products, ("noise_level.out",), ("embedding.table",)),
        ((), ("readout",), ()),
        ((), (), ("readout",)),
        (("mlp.up",), (), ()),
    ):
        small = quantize(ir.load(tmp_path / "model.onnx"), *kinds)
        ir.save(small, tmp_path / "small.onnx")
        error = relative_error(exact, open_session(tmp_path / "small.onnx").run(["logits"], told)[0])
        assert 0.0 < error < 0.05, kinds
    operations = [
        node.op_type
        for node in quantize(ir.load(tmp_path / "model.onnx"), products, ("noise_level.out",)).graph
    ]
    assert operations.count("MatMulInteger") == 2 * 4 + 2 and operations.count("DequantizeLinear") == 1


def test_a_graph_too_large_for_one_file_is_quantised_alike(
    graphs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    held = []
    for most in (quantization.MAX_PROTOBUF, 0):
        monkeypatch.setattr(quantization, "MAX_PROTOBUF", most)
        small = quantize(
            ir.load(graph_path(graphs, "step")),
            ("mlp.up", "readout"),
            ("noise_level.out",),
            ("embedding.table",),
        )
        held.append(
            {
                str(value.name): content(value.const_value.numpy())
                for value in small.graph.initializers.values()
            }
        )
        save_graphs(tmp_path, {"step": small}, "weights")
        open_session(tmp_path / "step.onnx")
    assert held[0] == held[1] and "readout.weight.T_quantized" in held[0]


def test_kinds_are_told_by_the_names_of_weights() -> None:
    names = {
        "transformer.blocks.11.mlp.up.weight.T": "mlp.up",
        "noise_level.out.weight_Transposed": "noise_level.out",
    }
    names |= {
        "embedding.table": "embedding.table",
        "readout.weight.T": "readout",
        "inward.weight.T": "inward",
    }
    assert {name: kind_of_weight(name) for name in names} == names


def test_a_layer_is_held_in_one_way() -> None:
    with pytest.raises(InvalidValue, match=r"has no mlp; there are attention\.qkv"):
        Int8(products=("mlp",), weights=(), halves=())
    with pytest.raises(InvalidValue, match=r"name mlp\.up twice"):
        Int8(products=("mlp.up",), weights=("mlp.up",), halves=())


def test_the_folder_records_its_parity_and_what_eight_bits_cost(exported: Path) -> None:
    manifest = read_json(exported / "manifest.json")
    walks = manifest["parity"]["walks"]
    assert {walk["engine"] for walk in walks} >= {
        "onnxruntime, step by step",
        "onnxruntime, one call",
        "onnx reference, one call",
    }
    assert {(walk["sampler"], walk["steps"]) for walk in walks} >= {
        ("ddim", 50),
        ("dpm-solver", 10),
        ("ddpm", 1000),
    }
    assert [walk for walk in walks if walk["different_ids"]] == []
    assert manifest["parity"]["relative_error_per_call"] < 1e-5
    quality = manifest["quality"]
    assert quality["int8"]["nats_per_token"] == pytest.approx(quality["fp32"]["nats_per_token"], rel=0.02)
    assert quality["int8"]["nats_per_token"] != quality["fp32"]["nats_per_token"]
    assert manifest["bytes"]["int8"] < manifest["bytes"]["fp32"]
    assert read_json(exported.parent / "export.json")["parity"] == manifest["parity"]
    props = {
        p.key: p.value
        for p in onnx.load(exported / "onnx" / "step.onnx", load_external_data=False).metadata_props
    }
    assert props["sunfish.model_sha256"] == manifest["made_from"]["model_sha256"]


def test_a_graph_that_differs_is_not_kept(
    params: dict, trained: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = lambda stored, guess, folder, section: shutil.copytree(
        exported / "onnx", folder, dirs_exist_ok=True
    )  # noqa: E731
    monkeypatch.setattr("sunfish.export.folder._write_graphs", written)  # a minute's work otherwise
    section = dataclasses.replace(params["export"], int8=None, max_relative_error=1e-12)
    with pytest.raises(UserError, match="differs from torch by"):
        export_folder(trained / "denoiser", tmp_path / "onnx", tmp_path / "m.json", section)
    assert list(tmp_path.iterdir()) == []


def test_the_card_s_script_runs_with_plain_onnxruntime(exported: Path) -> None:
    card = (exported / "README.md").read_text()
    script = card.split("```python\n")[1].split("```")[0]
    assert "sunfish" not in script
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=exported, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("['")
    columns, rows = (json.loads((exported / "table.json").read_text())[key] for key in ("columns", "rows"))
    recommended = read_json(exported / "config.json")["sampler"]
    assert tuple(columns) == COLUMNS and len(rows) == 1 + recommended["window_steps"]
