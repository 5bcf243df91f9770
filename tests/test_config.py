from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sunfish.config.compose import SECTIONS, ConfigError, check, compose, read_section
from sunfish.diffusion.objectives import OBJECTIVES
from tests.builders import ROOT


@pytest.fixture
def params_path(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text())
    return path


@pytest.mark.parametrize(
    ("name", "overrides"),
    [("params.yaml", []), ("pipelines/finetune/params.yaml", ["experiment=story_tasks"])],
)
def test_committed_params_are_compositions(name: str, overrides: list[str], tmp_path: Path) -> None:
    compose(overrides, tmp_path / "params.yaml")
    assert (tmp_path / "params.yaml").read_text() == (ROOT / name).read_text(), (
        f"run: python -m sunfish.config --params {name} compose {' '.join(overrides)}"
    )


@pytest.mark.parametrize("model", ["tiny", "mini", "small", "base", "large", "full"])
def test_every_model_alone_is_a_run(model: str, tmp_path: Path) -> None:
    compose([f"model={model}"], tmp_path / "params.yaml")
    assert check(tmp_path / "params.yaml")["model"].name == model


PATHS = ["data.sources.files.paths=[texts.txt]"]


@pytest.mark.parametrize(
    ("experiment", "more"),
    [
        ("founding", []), ("puzzles", []), ("baselines_35m", []), ("real_text", PATHS),
        ("e2e", PATHS), ("tinystories", PATHS),
        ("fineweb_sample", [*PATHS, "data.tokenizer.pretrained=gpt2"]),
        ("story_tasks", []), ("story_tasks", ["data=tasks", "data.sources.tasks.paths=[tasks.jsonl]"]),
    ],
)  # fmt: skip
def test_every_experiment_is_a_run(experiment: str, more: list[str], tmp_path: Path) -> None:
    compose([f"experiment={experiment}", *more], tmp_path / "params.yaml")
    built = check(tmp_path / "params.yaml")
    assert built["sampler"].check is None or built["diffusion"].check_weight > 0
    assert OBJECTIVES[built["diffusion"].objective].trains_embeddings or not built["model"].output_prior


def test_founding_is_as_founded(tmp_path: Path) -> None:
    compose(["experiment=founding"], tmp_path / "params.yaml")
    built = check(tmp_path / "params.yaml")
    assert (built["schedule"].kind, built["diffusion"].objective) == ("linear-beta", "eps_mse")
    assert (built["sampler"].name, built["sampler"].steps, built["sampler"].check) == ("ddpm", 1000, None)


def test_full_is_the_founding_table(tmp_path: Path) -> None:
    compose(["model=full"], tmp_path / "params.yaml")
    built = check(tmp_path / "params.yaml")
    model, pretrain = built["model"], built["pretrain"]
    assert (model.num_layers, model.num_heads, model.width) == (24, 16, 2048)
    assert (pretrain.micro_rows, pretrain.batch_rows, pretrain.steps, pretrain.optim.warmup_steps) == (
        8,
        128,
        500_000,
        5_000,
    )
    assert (
        pretrain.activation_checkpointing and built["data"].sources["fineweb"].name == "HuggingFaceFW/fineweb"
    )


def test_a_group_given_by_hand_comes_before_the_model_s(tmp_path: Path) -> None:
    compose(["model=full", "data=stories"], tmp_path / "params.yaml")
    assert check(tmp_path / "params.yaml")["data"].sources["stories"].kind == "stories"


EDITS = [
    (r"  num_heads: \d+", "  num_hedas: 4", r"model.num_hedas = 4: unknown key; did you mean 'num_heads'\?"),
    (r"  num_heads: \d+", "  num_heads: 3", r"model.num_heads = 3: must divide width = 128"),
    (
        r"  num_heads: \d+",
        "  num_heads: four",
        r"model.num_heads = 'four': should be a whole number, not text",
    ),
    (r"  num_heads: \d+\n", "", r"model.num_heads: this key is missing"),
    (
        r"objective: ce",
        "objective: cee",
        r"diffusion.objective = 'cee': must be one of ce, elbo, eps_mse, x0_mse",
    ),
    (r"check_weight: \S+", "check_weight: 0.0", r"sampler.check: the model does not learn to check"),
    (r"kind: adaptive", "kind: adaptiv", r"schedule.kind = 'adaptiv': .* did you mean 'adaptive'\?"),
    (r"  epsilon: \S+", "  epsilon: 1.0", r"sampler.check.epsilon = 1.0: must be at least 0"),
    (r"temperature: \S+", "temperature: .nan", r"sampler.temperature = nan: should be a finite number"),
    (r"plugins: \[\]", "plugins: [nowhere]", r"plugin 'nowhere' cannot be imported"),
    (r"warmup_steps: \d+", "warmup_steps: 90000", r"pretrain.steps = .* must be more than the warm-up"),
    (r"kind: stories", "kind: story", r"data.sources.stories.kind = 'story': .* did you mean 'stories'\?"),
    (r"model:\n(  .*\n)+", "model: full\n", r"model = 'full': should be a section with keys, not text"),
    (r"batch_rows: \d+", "batch_rows: &a [*a, *a]", r"YAML aliases \(\*name\) are not allowed"),
    (r"launch:", "lanch:", r"lanch: unknown section; did you mean 'launch'\?"),
    (
        r"seed: 0\n",
        "seed: true\n",
        r"data.sources.stories.seed = True: should be a whole number, not true/false",
    ),
]


@pytest.mark.parametrize(
    ("pattern", "edit", "says"), EDITS, ids=[edit.strip()[:24] or "missing" for _, edit, _ in EDITS]
)
def test_an_edit_by_hand_is_caught(params_path: Path, pattern: str, edit: str, says: str) -> None:
    params_path.write_text(re.sub(pattern, edit, params_path.read_text(), count=1))
    with pytest.raises(ConfigError, match=says) as error:
        check(params_path)
    assert str(params_path) in str(error.value)


def test_numbers_as_hydra_reads_them(params_path: Path) -> None:
    params_path.write_text(re.sub(r"adamw_lr: \S+", "adamw_lr: 3e-4", params_path.read_text()))
    assert check(params_path)["pretrain"].optim.adamw_lr == 3e-4


def test_a_bad_override_leaves_the_old_file(params_path: Path) -> None:
    before = params_path.read_text()
    for overrides in (["model.num_heads=5"], ["modle=tiny"], ["model.num_hedas=4"], ["model=hughe"]):
        with pytest.raises(ConfigError):
            compose(overrides, params_path)
    assert params_path.read_text() == before and list(params_path.parent.iterdir()) == [params_path]


@pytest.mark.parametrize("path", ["größe.jsonl", "[en] part/a.jsonl", "a b[1].txt", "{a,b}.jsonl"])
def test_a_path_that_must_be_quoted_is_said_to_be(params_path: Path, path: str) -> None:
    with pytest.raises(ConfigError, match=r"""quote signs .* twice: 'paths=\["größe"""):
        compose(["data=files", f"data.sources.files.paths=[{path}]"], params_path)
    compose(["data=files", f'data.sources.files.paths=["{path}"]'], params_path)
    assert read_section(params_path, "data").sources["files"].paths == (path,)


@pytest.mark.parametrize(
    "override",
    ["sampler.steps=10001", "sampler.steps=0", "sampler.check.steps=20000", "validate.sample_steps=20000"],
)
def test_steps_that_no_sampler_takes_are_refused_before_anything_runs(override: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"between \d and 10,000"):
        compose([override], tmp_path / "params.yaml")


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="compose"):
        read_section(tmp_path / "params.yaml", "model")


@pytest.mark.parametrize("stage", ["shard plots report", "pretrain shards curve"])
def test_a_bad_parameter_is_said_in_one_line_and_at_once(params_path: Path, stage: str) -> None:
    name, *own = stage.split()
    params_path.write_text(params_path.read_text().replace("num_heads:", "num_hedas:"))
    command = [sys.executable, "-m", f"stages.{name}", "--params", str(params_path)]
    paths = [
        part for each in ("out", "metrics", *own) for part in (f"--{each}", str(params_path.parent / each))
    ]
    started = time.monotonic()
    done = subprocess.run([*command, *paths], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and time.monotonic() - started < 20
    assert done.stderr.startswith("error: ") and "num_hedas" in done.stderr and "Traceback" not in done.stderr
    assert sorted(p.name for p in params_path.parent.iterdir()) == ["params.yaml"]


@pytest.mark.parametrize(("output", "says"), [("> /dev/full", "No space left"), ("| true", "")])
def test_output_that_cannot_be_written_is_a_line_at_most(output: str, says: str) -> None:
    command = f'set -o pipefail; "$0" -u -m sunfish.config check {output}'
    done = subprocess.run(["bash", "-c", command, sys.executable], cwd=ROOT, capture_output=True, text=True)
    lines = done.stderr.splitlines()
    assert done.returncode <= 1 and len(lines) == bool(says) and all(says in line for line in lines)


def test_every_group_of_conf_is_a_section() -> None:
    groups = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}
    assert groups - {"experiment"} == set(SECTIONS)
