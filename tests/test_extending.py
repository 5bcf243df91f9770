"""A module outside the package adds one of each, and the commands that a user types run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sunfish.files import read_json
from tests.builders import ROOT, THIMBLE

PLUGIN = """
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sunfish.config.schema.sources import SOURCES, Source
from sunfish.diffusion.objectives import OBJECTIVES, Objective
from sunfish.diffusion.schedule import NoiseSchedule, logsnr_of_alpha_squared
from sunfish.diffusion.schedules import SCHEDULES, FixedSchedule
from sunfish.documents import Record
from sunfish.sampling.solvers import SAMPLERS, ddim


def slow_start(grid, steps, config):
    return ddim(lambda num: grid(num), steps, config)


@dataclass(frozen=True, kw_only=True)
class CosineSquared:
    kind: Literal["cosine-squared"]
    power: float

    def start(self):
        t = np.linspace(0.0, 1.0, 500)
        alpha_squared = 1e-4 + 0.999 * np.cos(1.5 * t) ** self.power
        return FixedSchedule(NoiseSchedule(t, logsnr_of_alpha_squared(alpha_squared)))


@dataclass(frozen=True, kw_only=True)
class Counting(Source):
    kind: Literal["counting"]
    num_documents: int

    def read(self, span):
        for number in range(self.num_documents):
            yield Record(" ".join(str((number + k) % 10) for k in range(9)), {}, f"document {number}")


SAMPLERS["mine"] = slow_start
SCHEDULES["cosine-squared"] = CosineSquared
OBJECTIVES["ce-squared"] = Objective(lambda batch: batch.token_nats() ** 2, trains_embeddings=True)
SOURCES["counting"] = Counting
"""
METRIC = """
from sunfish.evaluation.metrics import METRICS

METRICS["mine"] = lambda texts, context: {"share_of_sevens": 0.5}
"""
OVERRIDES = [
    "plugins=[my_plugin]", "sampler.name=mine", "diffusion.objective=ce-squared",
    "~schedule", "+schedule={kind: cosine-squared, power: 2.0}",
    "~data.sources.stories", "+data.sources.mine={kind: counting, num_documents: 400, weight: null}",
]  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the module, its params.yaml, and what the stages made of them."""
    folder = tmp_path_factory.mktemp("extending")
    (folder / "my_plugin.py").write_text(PLUGIN)
    (folder / "my_metric.py").write_text(METRIC)
    small = [each for each in THIMBLE if "sources.stories" not in each]
    params = ["--params", "params.yaml"]
    typed(folder, "sunfish.config", *params, "compose", *small, *OVERRIDES)
    made = named(out="shards", metrics="shard.json", plots="plots", report="data.html", runs="runs")
    typed(folder, "stages.shard", *params, *made)
    made = named(shards="shards", out="denoiser", metrics="pretrain.json", curve="curve.csv", runs="runs")
    typed(folder, "stages.pretrain", *params, *made)
    return folder


def named(**paths: str) -> list[str]:
    return [part for key, value in paths.items() for part in (f"--{key}", value)]


def typed(folder: Path, module: str, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_source_a_schedule_and_an_objective_of_one_s_own_are_trained_with(project: Path) -> None:
    assert read_json(project / "pretrain.json")["train_loss"] > 0
    knots = read_json(project / "denoiser" / "noise_schedule.json")["t"]
    assert len(knots) == 500


@pytest.mark.slow
def test_a_sampler_and_a_metric_of_one_s_own_are_evaluated_and_exported_with(project: Path) -> None:
    folders = named(params="params.yaml", denoiser="denoiser", shards="shards")
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("- my_plugin", "- my_plugin\n- my_metric"))
    tables = named(curve="curve.csv", metrics="evaluate.json", results="tables.json", plots="plots")
    typed(project, "stages.evaluate", *folders, *tables, "--samples", "samples.txt")
    assert "share_of_sevens" in (project / "tables.json").read_text()
    typed(
        project, "stages.export", *folders, *named(results="tables.json", out="onnx", metrics="export.json")
    )
    options = [
        "--model",
        "onnx",
        "--plugin",
        "my_plugin",
        "--sampler",
        "mine",
        "--steps",
        "3",
        "--seed",
        "0",
        "--json",
    ]
    assert len(json.loads(typed(project, "sunfish", "generate", *options))["texts"]) == 1


def test_a_name_that_no_plugin_adds_is_said(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sunfish.config", "--params", str(tmp_path / "params.yaml"), "compose"]
    done = subprocess.run([*command, "sampler.name=mine"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "sampler.name = 'mine': must be one of ddpm" in done.stderr
