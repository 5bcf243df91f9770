"""The pipeline's files tell the truth about the code, and a thimble-sized `dvc repro` runs end to end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import yaml

from sunfish.config.compose import SECTIONS
from tests.builders import ROOT, THIMBLE
from tests.dependencies import is_covered, pipelines, reached_by, with_dependencies

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
STAGES = ["fingerprint", "shard", "validate", "pretrain", "evaluate", "report", "export"]
FILES = [
    "stages",
    "sunfish",
    "pipelines",
    "conf",
    "dvc.yaml",
    ".dvcignore",
    ".gitignore",
    ".dvc/config",
    ".dvc/plots.html",
    ".dvc/.gitignore",
]


def test_stage_is_script() -> None:
    assert list(PIPELINE) == STAGES
    assert sorted(p.stem for p in (ROOT / "stages").glob("[a-z]*.py")) == sorted(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_code_it_reaches(stage: str) -> None:
    deps = PIPELINE[stage]["deps"]
    missing = [path for path in reached_by(f"stages.{stage}") if not is_covered(path, deps)]
    assert missing == [], "run: python -m tests.dependencies"
    assert [dep for dep in deps if dep.startswith(("sunfish", "stages")) and not (ROOT / dep).exists()] == []


def test_the_lists_are_renewed() -> None:
    text = (ROOT / "dvc.yaml").read_text()
    assert with_dependencies(text) == text, "run: python -m tests.dependencies"
    assert len(text.splitlines()) <= 120


@pytest.mark.parametrize("path", pipelines()[1:], ids=lambda path: path.parent.name)
def test_every_other_pipeline_runs_again_when_a_file_that_it_reaches_changes(path: Path) -> None:
    for name, stage in yaml.safe_load(path.read_text())["stages"].items():
        stage = stage.get("do", stage)
        for module in re.findall(r"python -m ([\w.]+)", stage["cmd"]):
            deps = [dep.removeprefix("../../") for dep in stage["deps"]]
            missing = [file for file in reached_by(module) if not is_covered(file, deps)]
            assert missing == [], f"{path}: {name}"


def test_no_training_depends_on_a_sampler() -> None:
    deps = PIPELINE["pretrain"]["deps"]
    assert not [dep for dep in deps if "sampl" in dep]
    assert not [path for path in reached_by("stages.pretrain") if "sampling/" in path]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_names_the_sections_it_reads(stage: str) -> None:
    text = (ROOT / "stages" / f"{stage}.py").read_text()
    read = {name for name in SECTIONS if re.search(rf'"{name}"', text)}
    assert read - {"launch", "tracking"} == set(PIPELINE[stage]["params"]) - {"plugins"}
    assert "plugins" in PIPELINE[stage]["params"]


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage not in ("fingerprint", "report")])
def test_a_stage_comes_back_from_the_run_cache(stage: str) -> None:
    """DVC keeps a stage's run unless an output that is neither metric nor plot is not cached."""
    assert all(isinstance(out, str) for out in PIPELINE[stage].get("outs", []))


def test_the_metrics_are_the_headline_numbers() -> None:
    metrics = [path for stage in PIPELINE.values() for of in stage.get("metrics", []) for path in of]
    assert metrics == ["results/metrics/evaluate.json"]


def git_project(folder: Path) -> dict[str, str]:
    """Copy the project into a repository of its own and return the environment of its commands."""
    folder.mkdir()
    subprocess.run(["cp", "-r", "--parents", *FILES, str(folder)], cwd=ROOT, check=True)
    who = ["-c", "user.name=t", "-c", "user.email=t@t"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "t"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {key: value for key, value in os.environ.items() if not key.startswith("DVC_")}
    return kept | {"PATH": path, "PYTHONPATH": str(folder)}


def dvc_in(project: Path, environment: dict[str, str]) -> Callable[..., str]:
    """Return a function that runs DVC in a project and returns what it prints."""

    def dvc(*arguments: str) -> str:
        done = subprocess.run(
            ["dvc", *arguments], cwd=project, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return dvc


def as_if_it_had_run(project: Path) -> Callable[..., str]:
    """Copy the project, write "x" into every output, record them, and return its `dvc`."""
    environment = git_project(project)
    dvc = dvc_in(project, environment)
    subprocess.run(
        [sys.executable, "-m", "sunfish.config", "compose"], cwd=project, env=environment, check=True,
        capture_output=True,
    )  # fmt: skip
    for name in (
        "data/shards",
        "models/denoiser",
        "models/onnx",
        "results/plots/data",
        "results/plots/evaluate",
    ):
        (project / name).mkdir(parents=True)
        (project / name / "file").write_text("x")
    measured = ("shard", "validate", "pretrain", "evaluate", "export")
    for name in (
        "data/fingerprint.json", "models/gate.json", "results/data.html", "results/report.html",
        "results/evaluate.json", "results/samples/samples.txt", "results/plots/loss_curve.csv",
        *(f"results/metrics/{name}.json" for name in measured),
    ):  # fmt: skip
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("x")
    dvc("commit", "--force")
    return dvc


@pytest.mark.slow
def test_what_was_made_is_kept_and_had_again_in_a_fresh_clone(tmp_path: Path) -> None:
    project, clone, store = tmp_path / "project", tmp_path / "clone", str(tmp_path / "store")
    dvc = as_if_it_had_run(project)
    for command in (["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "made"]):
        subprocess.run(["git", *command], cwd=project, check=True)
    weights = project / "models" / "denoiser" / "file"
    dvc("remote", "add", "--local", "--default", "store", store)
    dvc("push")
    dvc("exp", "save", "--name", "first")
    weights.unlink()
    dvc("checkout")
    assert weights.read_text() == "x"
    weights.unlink()  # it may share its bytes with the cache
    weights.write_text("y")
    dvc("commit", "--force")
    dvc("exp", "apply", "first")
    assert weights.read_text() == "x"
    subprocess.run(["git", "clone", "-q", str(project), str(clone)], check=True)
    dvc = dvc_in(clone, {**os.environ, "PYTHONPATH": str(clone)})
    dvc("remote", "add", "--local", "--default", "store", store)
    dvc("pull")
    assert (clone / "models" / "denoiser" / "file").read_text() == "x"


@pytest.mark.slow
def test_a_comment_in_a_sampler_changes_no_training(tmp_path: Path) -> None:
    project = tmp_path / "project"
    dvc = as_if_it_had_run(project)
    assert "pretrain" not in dvc("status")
    solvers = project / "sunfish" / "sampling" / "solvers.py"
    solvers.write_text(solvers.read_text() + "# a comment\n")
    changed = dvc("status")
    assert "evaluate" in changed and "export" in changed and "validate" in changed
    assert "pretrain" not in changed and "shard:" not in changed


@pytest.mark.slow
def test_a_download_without_git_runs(tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", "--parents", "Makefile", ".dvc/config", str(tmp_path)], cwd=ROOT, check=True)
    (tmp_path / "dvc.yaml").write_text("stages: {a: {cmd: echo x > a.txt, outs: [a.txt: {cache: false}]}}\n")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["make", "--old-file", ".venv/.ready", "repro"]
    environment = os.environ | {"PATH": path, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "made    data/shards" in done.stdout, done.stderr
    assert (tmp_path / "a.txt").read_text() == "x\n"


@pytest.mark.slow
def test_a_thimble_runs_end_to_end_and_again_does_nothing(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    environment = git_project(clone)

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=clone, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(sys.executable, "-m", "sunfish.config", "compose", *THIMBLE)
    run("dvc", "repro")
    made = {p.name for p in (clone / "models" / "onnx").iterdir()}
    assert made >= {"onnx", "manifest.json", "tokenizer.json", "config.json"}
    assert json.loads((clone / "models" / "gate.json").read_text())["passed"]
    again = run("dvc", "repro")  # the fingerprint is taken each time
    assert "Running stage 'fingerprint'" in again and again.count("Running stage") == 1
    assert "bound_nats" in run("dvc", "metrics", "show")
    text = run(
        sys.executable, "-m", "sunfish.runtime.cli", "generate", "--steps", "3", "--seed", "0", "--json"
    )
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
    run = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True)
    params = ["--params", str(tmp_path / "params.yaml")]
    strict = [*THIMBLE, "validate.overfit_ce=1e-9"]
    run([sys.executable, "-m", "sunfish.config", *params, "compose", *strict], check=True)
    written = ["--out", str(tmp_path / "gate.json"), "--metrics", str(tmp_path / "m.json")]
    read = [*params, "--shards", str(shards.folder)]
    done = run([sys.executable, "-m", "stages.validate", *read, *written], check=False)
    assert (
        done.returncode == 1 and "FAILED overfit ce" in done.stdout and not (tmp_path / "gate.json").exists()
    )
