"""Several processes on CPUs with gloo: the same training as one process, shards that any number of processes
can read.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sunfish.config.compose import check, compose
from sunfish.errors import UserError
from sunfish.text.shards import Shards
from sunfish.training.parallel import choose_precision, choose_strategy, count_devices
from tests.builders import ROOT, THIMBLE

EXACT = ["launch.precision=32-true", "launch.num_threads=1", "pretrain.log_every=1"]


def command(folder: Path, shards: Path, overrides: list[str], runs: str = "runs") -> list[str]:
    folder.mkdir(exist_ok=True)
    compose([*THIMBLE, *EXACT, *overrides], folder / "params.yaml")
    places = {"out": "denoiser", "metrics": "metrics.json", "curve": "curve.csv", "runs": runs}
    named = [part for key, name in places.items() for part in (f"--{key}", str(folder / name))]
    return ["-m", "stages.pretrain", "--params", str(folder / "params.yaml"), "--shards", str(shards), *named]


def train(folder: Path, shards: Path, *overrides: str) -> list[float]:
    run_python(*command(folder, shards, list(overrides)))
    return losses(folder)


def run_python(*arguments: str, **options: Any) -> str:
    """Run Python to its good end and return what it printed."""
    command_line, how = [sys.executable, *arguments], {"capture_output": True, "text": True, "timeout": 300}
    return subprocess.run(command_line, check=True, **how, **options).stdout


def start_python(*arguments: str) -> subprocess.Popen[bytes]:
    nowhere = subprocess.DEVNULL
    return subprocess.Popen([sys.executable, *arguments], stderr=nowhere, stdout=nowhere)


def losses(folder: Path) -> list[float]:
    with (folder / "curve.csv").open() as file:
        return [float(line["loss"]) for line in csv.DictReader(file)]


def checks(folder: Path) -> list[float]:
    lines = next((folder / "runs").glob("*/log.jsonl")).read_text().splitlines()
    return [json.loads(line)["check_nats_per_token"] for line in lines]


def assert_same_training(ours: list[float], theirs: list[float]) -> None:
    """Sums in another order differ in a float's last digits, and nothing magnifies that."""
    assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.fixture(scope="module")
def one(shards: Shards, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of it."""
    folder = tmp_path_factory.mktemp("one")
    train(folder, shards.folder, "pretrain.micro_rows=8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "beside"), [("ddp", "false"), ("fsdp", "true")])
def test_two_processes_train_as_one(
    shards: Shards, one: Path, tmp_path: Path, strategy: str, beside: str
) -> None:
    """Accumulation, clipping by the true norm, Muon, averages and saving: the curve and the weights are those
    of one process.
    """
    launch = ["launch.devices=2", f"launch.strategy={strategy}", f"launch.async_checkpoints={beside}"]
    two = train(
        tmp_path / "two", shards.folder, "pretrain.micro_rows=2", "pretrain.checkpoint_every=3", *launch
    )
    assert_same_training(losses(one), two)
    assert_same_training(checks(one), checks(tmp_path / "two"))  # the causal pass, too
    ours, theirs = (
        load_file(folder / "denoiser" / "model.safetensors") for folder in (one, tmp_path / "two")
    )
    assert set(ours) == set(theirs)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-4, rtol=1e-3)


IN_PIECES = """
from sunfish.model import readout
readout.PIECE["cpu"] = 20_000
from stages.pretrain import main
main()
"""


@pytest.mark.slow
def test_a_loss_in_pieces_trains_alike_on_shards(shards: Shards, tmp_path: Path) -> None:
    """A head of its own and the output prior, as the large models have them; two processes in pieces against
    one in one piece.
    """
    made = ["model.tied_head=false", "model.output_prior=true"]
    whole = train(tmp_path / "whole", shards.folder, "pretrain.micro_rows=8", *made)
    script = tmp_path / "in_pieces.py"
    script.write_text(IN_PIECES)
    launch = ["launch.devices=2", "launch.strategy=fsdp", "pretrain.micro_rows=4"]
    _, _, *arguments = command(tmp_path / "pieces", shards.folder, [*made, *launch])
    run_python(str(script), *arguments, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert_same_training(whole, losses(tmp_path / "pieces"))


@pytest.mark.slow
def test_shards_of_four_processes_are_carried_on_by_two_and_by_one_after_sigterm(
    shards: Shards, tmp_path: Path
) -> None:
    long, parts = ["pretrain.steps=60", "pretrain.micro_rows=8"], tmp_path / "parts"
    whole = train(tmp_path / "whole", shards.folder, *long)
    for processes, strategy, stop_after in ((4, "fsdp", 5), (2, "ddp", 25)):
        launch = [f"launch.devices={processes}", f"launch.strategy={strategy}"]
        launch += ["launch.async_checkpoints=true"]
        terminate(command(parts, shards.folder, [*long, *launch]), parts / "runs", stop_after)
    assert "carrying on from step" in run_python(*command(parts, shards.folder, long))
    assert_same_training(whole, losses(parts))


def terminate(stage: list[str], runs: Path, stop_after: int) -> None:
    """Start a training and ask its first process to stop after some steps; it tells the others."""
    process = start_python(*stage)
    while not any(len(path.read_text().splitlines()) > stop_after for path in runs.glob("*/log.jsonl")):
        assert process.poll() is None and not time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 75


@pytest.mark.slow
@pytest.mark.parametrize("beside", ["false", "true"])
def test_killed_at_random_moments_nothing_changes(shards: Shards, tmp_path: Path, beside: str) -> None:
    """SIGKILL, also in the middle of a checkpoint (there is one every second step): the curve and the weights
    are the same bits.
    """
    often = ["pretrain.steps=60", "pretrain.checkpoint_every=2", f"launch.async_checkpoints={beside}"]
    whole = train(tmp_path / "one", shards.folder, *often)
    stage, rng = command(tmp_path / "parts", shards.folder, often), np.random.default_rng(0)
    runs = tmp_path / "parts" / "runs"
    for _ in range(int(os.environ.get("SUNFISH_KILLS", "2"))):
        process = start_python(*stage)
        logs = list(runs.glob("*/log.jsonl"))
        before = logs[0].stat().st_mtime_ns if logs else 0
        while not (found := list(runs.glob("*/log.jsonl"))) or found[0].stat().st_mtime_ns == before:
            assert process.poll() is None and not time.sleep(0.01)
        time.sleep(0.15 * rng.random())
        process.kill()
        process.wait()
    run_python(*stage)
    assert losses(tmp_path / "parts") == whole
    ours, theirs = (
        load_file(tmp_path / name / "denoiser" / "model.safetensors") for name in ("one", "parts")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_hybrid_shards_within_a_node_and_replicates_between(
    shards: Shards, one: Path, tmp_path: Path
) -> None:
    """Two torchrun agents stand for two nodes of two processes."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    stage = command(tmp_path / "four", shards.folder, ["launch.strategy=hybrid"])
    start = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=2"]
    start += ["--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}", "--rdzv-id=x"]
    agents = [
        subprocess.Popen([*start, f"--node-rank={node}", *stage], stderr=subprocess.DEVNULL)
        for node in (0, 1)
    ]
    assert [agent.wait(240) for agent in agents] == [0, 0]
    assert_same_training(losses(one), losses(tmp_path / "four"))


def launch_of(tmp_path: Path, *overrides: str) -> object:
    compose([*overrides], tmp_path / "params.yaml")
    return check(tmp_path / "params.yaml")["launch"]


def test_auto_replicates_small_models_and_shards_large_ones(tmp_path: Path) -> None:
    launch = launch_of(tmp_path)
    chosen = [choose_strategy(launch, *case) for case in ((1, 10**10), (8, 10**6), (8, 10**9))]
    assert chosen == ["single", "ddp", "fsdp"]


@pytest.mark.parametrize(("strategy", "processes"), [("single", 2), ("ddp", 1), ("hybrid", 1)])
def test_a_strategy_that_does_not_fit_is_said(tmp_path: Path, strategy: str, processes: int) -> None:
    with pytest.raises(UserError, match=f"launch.strategy = '{strategy}': does not fit {processes} process"):
        choose_strategy(launch_of(tmp_path, f"launch.strategy={strategy}"), processes, 1)


def test_what_torchrun_and_srun_started_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = launch_of(tmp_path, "launch.devices=3")
    assert count_devices(launch, has_gpu=False) == (3, 1)
    monkeypatch.setattr(os, "environ", {"SLURM_NTASKS": "16", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "train"})
    assert count_devices(launch, has_gpu=False) == (8, 2)
    monkeypatch.setattr(
        os, "environ", {"LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "12", "TORCHELASTIC_RUN_ID": "x"}
    )
    assert count_devices(launch, has_gpu=False) == (4, 3)


def test_devices_and_precisions_that_are_not_there_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=r"launch.devices = 8: this machine shows 2 CUDA devices"):
        count_devices(launch_of(tmp_path, "launch.devices=8"), has_gpu=True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    with pytest.raises(UserError, match="Tesla T4 has no bf16"):
        choose_precision(launch_of(tmp_path, "launch.precision=bf16-mixed"), has_gpu=True)


def test_a_batch_that_does_not_divide_is_said(shards: Shards, tmp_path: Path) -> None:
    stage = command(tmp_path, shards.folder, ["launch.devices=3"])
    done = subprocess.run([sys.executable, *stage], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "pretrain.batch_rows = 8: does not divide among 3 processes" in done.stderr
    assert "Traceback" not in done.stderr
