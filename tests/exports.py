"""Small exported models with drawn weights, as fixtures: nothing is trained for them."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sunfish.config.schema.export import ExportConfig, Int8
from sunfish.config.schema.model import ModelConfig
from sunfish.config.schema.sampler import CheckConfig, SamplerConfig
from sunfish.diffusion.lengths import RowLengths
from sunfish.diffusion.schedule import uniform
from sunfish.digests import write_digests
from sunfish.export.folder import export_folder
from sunfish.export.graph import export_check, export_denoiser, export_step
from sunfish.export.loop import sampler_graph
from sunfish.export.weights import save_graphs
from sunfish.files import read_json, write_json
from sunfish.model.denoiser import Denoiser
from sunfish.model.initial import init_weights
from sunfish.model.pretrained import FORMAT, FolderConfig, StoredDenoiser, write_denoiser
from sunfish.runtime.generator import Sampler
from sunfish.sampling.onnx_backend import weights_path
from sunfish.text.tokenizer import train_tokenizer, write_tokenizer

SMALL = ModelConfig(
    name="small", num_layers=2, num_heads=2, width=32, emb_dim=16, cond_dim=8, conv_window=2, tied_head=True,
    input_posterior=True, output_prior=False, length_conditioning=True,
)  # fmt: skip
PLAIN = SamplerConfig(
    name="ddim", steps=4, eta=0.0, churn=0.0, temperature=1.0, confidence_threshold=1.0,
    epsilon_cutoff=0.0, check=None,
)  # fmt: skip
CHECKED = dataclasses.replace(
    PLAIN,
    check=CheckConfig(epsilon=0.05, steps=2, restart_time=0.8, max_rounds=6),
    gap_check=CheckConfig(epsilon=0.02, steps=3, restart_time=0.9, max_rounds=4),
)
EXPORT = ExportConfig(
    opset=20, int8=Int8(products=("mlp.up",), weights=("readout",), halves=("embedding.table",)),
    parity_texts=2,
    parity_texts_ddpm=0, quality_rows=2, tie_margin=1e-4, max_relative_error=5e-5, licence="MIT",
)  # fmt: skip
SCHEDULE = uniform(-8.0, 4.0, 2)
ANSWERS = {"up_to": [12], "lengths": [{"lengths": [24], "counts": [3], "possible": 9}]}
STORY = (
    "one day anna went to the park . she was happy . the dog had a red ball and it was the best day of all ."
)


def draw_denoiser(vocab_size: int, scale: float = 0.3, **changes: Any) -> StoredDenoiser:
    """Return a denoiser whose zero-initialised weights are drawn, too, so that everything matters."""
    denoiser = Denoiser(dataclasses.replace(SMALL, **changes), vocab_size)
    init_weights(denoiser, 0)
    generator = torch.Generator().manual_seed(1)
    for parameter in denoiser.parameters():
        if not parameter.any():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.data = drawn * scale * parameter.shape[-1] ** -0.5
    config = FolderConfig(
        FORMAT, denoiser.config, vocab_size, RowLengths.count([8, 12, 12], 12), 0, can_check=True
    )
    return StoredDenoiser(denoiser.eval().requires_grad_(False), SCHEDULE, config, Path())


def export_graphs(stored: StoredDenoiser, folder: Path) -> None:
    """Write all graphs, fp32, as an exported folder holds them."""
    (folder / "onnx").mkdir()
    make = {"model": export_denoiser, "step": export_step, "check": export_check}
    graphs = {name: export(stored.denoiser, 20) for name, export in make.items()}
    graphs["sampler"] = sampler_graph(graphs["step"])
    graphs["checked_sampler"] = sampler_graph(graphs["step"], graphs["check"])
    save_graphs(folder / "onnx", graphs, weights_path(folder).name)


@pytest.fixture(scope="session", params=["tied", "untied, prior"])
def drawn(request: pytest.FixtureRequest) -> StoredDenoiser:
    """A denoiser of either make."""
    tied = request.param == "tied"  # as the default is
    return draw_denoiser(41, tied_head=tied, output_prior=not tied, length_conditioning=tied)


@pytest.fixture(scope="session")
def graphs(drawn: StoredDenoiser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its graphs."""
    folder = tmp_path_factory.mktemp("graphs")
    export_graphs(drawn, folder)
    return folder


@pytest.fixture(scope="session")
def denoiser_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A denoiser's folder over the words of one story, rows of 16 to 32 tokens."""
    folder = tmp_path_factory.mktemp("drawn")
    tokenizer = train_tokenizer([STORY] * 3, 300, "words")
    write_tokenizer(tokenizer, folder)
    stored = draw_denoiser(tokenizer.vocab_size, 3.0)
    lengths = RowLengths.count([16, 24, 24, 32], 8)
    config = dataclasses.replace(stored.config, row_lengths=lengths, end_id=tokenizer.end_id)
    write_denoiser(folder / "denoiser", config, stored.denoiser.state_dict(), SCHEDULE, folder)
    return folder / "denoiser"


@pytest.fixture(scope="session")
def folder(denoiser_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It, exported; its bound is said to be 1. export.json lies beside."""
    out = tmp_path_factory.mktemp("exported") / "onnx"
    measure = lambda graph: {"nats_per_token": 1.0, "rows": 2}  # noqa: E731
    export_folder(denoiser_dir, out, out.parent / "export.json", EXPORT, CHECKED, measure)
    return out


@pytest.fixture(scope="session")
def writer(folder: Path) -> Sampler:
    """The runtime's sampler of it."""
    return Sampler.load(folder, num_threads=1)


@pytest.fixture(scope="session")
def told_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported folder, as if it had been fine-tuned with answers of 24 positions."""
    told = shutil.copytree(folder, tmp_path_factory.mktemp("told") / "onnx")
    write_json(told / "config.json", read_json(told / "config.json") | {"answers": ANSWERS})
    write_digests(told)
    return told
