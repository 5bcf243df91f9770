"""The pipeline's files tell the truth about the code, and a thimble-sized `dvc repro` runs end to end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.numbers import with_numbers
from sunfish.config.compose import SECTIONS
from tests.conftest import ROOT, THIMBLE
from tests.dependencies import PIPELINES, reached_by, with_dependencies

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
STAGES = ["shard", "validate", "pretrain", "evaluate", "export"]
FILES = [
    "stages",
    "sunfish",
    "conf",
    "dvc.yaml",
    ".dvcignore",
    ".gitignore",
    ".dvc/config",
    ".dvc/.gitignore",
]


def test_stage_is_script() -> None:
    assert list(PIPELINE) == STAGES
    assert sorted(p.stem for p in (ROOT / "stages").glob("[a-z]*.py")) == sorted(
        [*STAGES, "distill"]
    )  # optional: distill/dvc.yaml


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_files_it_reaches(stage: str) -> None:
    code = [d for d in PIPELINE[stage]["deps"] if d.endswith(".py")]
    assert code == reached_by(f"stages.{stage}"), "run: python -m tests.dependencies"


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_pipeline_runs_again_when_a_file_that_it_reaches_changes(pipeline: str) -> None:
    text = (ROOT / pipeline).read_text()
    assert text.count("python -m ") == text.count("deps:") > 0
    assert with_dependencies(text) == text, "run: python -m tests.dependencies"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_names_the_sections_it_reads(stage: str) -> None:
    read = set(
        re.findall(r'read_section\(arguments.params, "(\w+)"', (ROOT / "stages" / f"{stage}.py").read_text())
    )
    assert read - {"launch", "tracking"} == set(PIPELINE[stage]["params"]) <= set(SECTIONS)


def test_stages_are_short() -> None:
    assert all(len(p.read_text().splitlines()) <= 65 for p in (ROOT / "stages").glob("*.py"))


def test_the_readme_s_tree_is_the_tree() -> None:
    tree = (ROOT / "README.md").read_text().split("## The tree")[1]
    named = set(re.findall(r"(\w+\.py)\b", tree))
    there = {
        p.name
        for folder in ("sunfish", "stages")
        for p in (ROOT / folder).rglob("*.py")
        if p.name != "__init__.py"
    }
    assert named == there


def committed(name: str) -> str:
    """A file as git holds it: a run of one's own writes other timings over the committed ones, and is no
    reason to fail.
    """
    done = subprocess.run(["git", "show", f":{name}"], cwd=ROOT, capture_output=True, text=True, check=False)
    return (ROOT / name).read_text() if done.returncode else done.stdout


@pytest.mark.parametrize("name", ["README.md", "docs/NUMBERS.md"])
def test_printed_numbers_are_the_committed_files(name: str) -> None:
    assert with_numbers(committed)[name] == committed(name), "run `python -m benchmarks.numbers`"


def test_twins_stand_beside_one_another_at_like_entropies() -> None:
    texts = json.loads(committed("pipelines/baselines/results.json"))["texts"]
    entropies = [
        texts[kind]["0.8"]["entropy_corpus_nats"] for kind in ("sunfish", "masked", "autoregressive")
    ]
    assert max(entropies) - min(entropies) < 0.1  # or they would not rank


def test_nothing_unpickles() -> None:
    for path in [*(ROOT / "sunfish").rglob("*.py"), *(ROOT / "stages").glob("*.py")]:
        assert not re.search(r"torch\.load|pickle\.|allow_pickle=True|joblib", path.read_text()), path


@pytest.mark.slow
def test_a_thimble_runs_end_to_end_and_again_does_nothing(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    clone.mkdir()
    subprocess.run(["cp", "-r", "--parents", *FILES, str(clone)], cwd=ROOT, check=True)
    for command in (
        ["git", "init", "-q"],
        ["git", "add", "-A"],
        ["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "t"],
    ):
        subprocess.run(command, cwd=clone, check=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DVC_")} | {
        "PATH": path,
        "PYTHONPATH": str(clone),
    }

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=clone, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(sys.executable, "-m", "sunfish.config", "compose", *THIMBLE)
    run("dvc", "repro")
    assert {p.name for p in (clone / "models" / "onnx").iterdir()} >= {
        "onnx",
        "manifest.json",
        "tokenizer.json",
        "config.json",
    }
    assert json.loads((clone / "models" / "gate.json").read_text())["passed"]
    assert "up to date" in run("dvc", "repro")
    assert "bound.nats_per_token" in run("dvc", "metrics", "show")
    text = run(sys.executable, "-m", "sunfish.runtime.cli", "generate", "--steps", "3", "--json")
    assert len(json.loads(text)["texts"]) == 1
    params = clone / "params.yaml"
    before = (clone / "models" / "onnx" / "manifest.json").read_bytes()
    params.write_text(params.read_text().replace("width: 32", "width: 33"))
    done = subprocess.run(
        ["dvc", "repro"], cwd=clone, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0 and "model.num_heads = 2: must divide width = 33" in done.stdout + done.stderr
    assert (clone / "models" / "onnx" / "manifest.json").read_bytes() == before


@pytest.mark.slow
def test_a_failed_gate_stops_the_pipeline(tmp_path: Path, shards) -> None:
    command = [
        sys.executable,
        "-m",
        "sunfish.config",
        "--params",
        str(tmp_path / "params.yaml"),
        "compose",
        *THIMBLE,
    ]
    subprocess.run([*command, "validate.overfit_ce=1e-9"], cwd=ROOT, check=True, capture_output=True)
    command = [
        sys.executable,
        "-m",
        "stages.validate",
        "--params",
        str(tmp_path / "params.yaml"),
        "--shards",
        str(shards.folder),
    ]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "gate.json"), "--metrics", str(tmp_path / "m.json")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (
        done.returncode == 1 and "FAILED overfit ce" in done.stdout and not (tmp_path / "gate.json").exists()
    )
