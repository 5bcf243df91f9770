"""A training that is stopped, resumed or extended ends as one that never stopped."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sunfish.errors import UserError
from sunfish.text.shards import Shards
from sunfish.tracking import Tracker
from sunfish.training import loop
from sunfish.training.log import read_lines
from sunfish.training.run import fingerprint
from sunfish.training.state import run_tensors
from sunfish.training.train_step import Record, Run, train_step
from tests.builders import batch, checkpoints_of, job_of, run_all, start


class Killed(Exception):
    pass


@pytest.mark.parametrize("stop", [4, 7, 11])
def test_stopped_and_resumed_is_never_stopped(
    params: dict, shards: Shards, tmp_path: Path, monkeypatch: Any, stop: int
) -> None:
    whole = run_all(params, tmp_path / "whole", shards)
    step = loop.train_step

    def dying(run: Run, *rest: Any) -> Record:
        if run.step == stop:
            raise Killed
        return step(run, *rest)

    monkeypatch.setattr(loop, "train_step", dying)
    with pytest.raises(Killed):
        run_all(params, tmp_path / "parts", shards)
    monkeypatch.setattr(loop, "train_step", step)
    resumed = run_all(params, tmp_path / "parts", shards)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    curves = [(tmp_path / name / "curve.csv").read_text() for name in ("whole", "parts")]
    assert curves[0] == curves[1]
    assert not list(
        (tmp_path / "parts" / "runs").glob("*/LATEST")
    )  # finished: training again means training anew


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves_and_nothing_is_lost(
    params: dict, shards: Shards, tmp_path: Path, monkeypatch: Any, number: signal.Signals
) -> None:
    whole = run_all(params, tmp_path / "whole", shards)
    step = loop.train_step

    def interrupted(run: Run, *rest: Any) -> Record:
        record = step(run, *rest)
        if run.step == 6:
            os.kill(os.getpid(), number)
        return record

    monkeypatch.setattr(loop, "train_step", interrupted)
    before = signal.getsignal(number)
    statuses = []
    close = Tracker.close
    monkeypatch.setattr(Tracker, "close", lambda self, status: (statuses.append(status), close(self, status)))
    with pytest.raises(SystemExit) as left:
        run_all(params, tmp_path / "parts", shards)
    assert statuses == ["KILLED"]  # it did not fail
    assert left.value.code == 75 and signal.getsignal(number) is before
    assert (next((tmp_path / "parts" / "runs").glob("*/LATEST"))).read_text() == "step-00000007"
    monkeypatch.setattr(loop, "train_step", step)
    resumed = run_all(params, tmp_path / "parts", shards)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_finished_run_is_extended_and_only_by_steps(params: dict, shards: Shards, tmp_path: Path) -> None:
    run_all(params, tmp_path, shards)
    name = next((tmp_path / "runs").iterdir()).name
    before = load_file(tmp_path / "denoiser" / "model.safetensors")
    after = run_all(params, tmp_path, shards, steps=16, extends=name)
    assert any(not torch.equal(before[k], after[k]) for k in before)
    lines = [
        line["step"]
        for path in (tmp_path / "runs").glob("*/log.jsonl")
        if name not in str(path)
        for line in read_lines(path)
    ]
    assert lines == [14, 16]
    with pytest.raises(UserError, match=r"had pretrain.seed = 0, not 1; only pretrain.steps may differ"):
        run_all(params, tmp_path, shards, steps=16, extends=name, seed=1)
    with pytest.raises(UserError, match=r"has 12 already; ask for more"):
        run_all(params, tmp_path, shards, extends=name)
    with pytest.raises(UserError, match="holds no finished run"):
        run_all(params, tmp_path, shards, steps=16, extends="nothing")


def test_without_a_rate_for_muon_adamw_has_all_parameters_and_a_run_carries_on(
    params: dict, shards: Shards, tmp_path: Path
) -> None:
    section = params["pretrain"]
    alone = params | {
        "pretrain": dataclasses.replace(
            section, optim=dataclasses.replace(section.optim, muon_lr=None, weight_decay=0.1)
        )
    }
    run = carries_on(alone, shards, tmp_path)
    assert run.optimizers.muon is None
    decays = {group["weight_decay"]: len(group["params"]) for group in run.optimizers.adamw.param_groups}
    assert set(decays) == {0.0, 0.1} and sum(decays.values()) == len(list(run.denoiser.parameters()))


def test_a_run_that_learns_no_check_carries_on(params: dict, shards: Shards, tmp_path: Path) -> None:
    carries_on(
        params | {"diffusion": dataclasses.replace(params["diffusion"], check_weight=0.0)}, shards, tmp_path
    )


def carries_on(params: dict, shards: Shards, folder: Path) -> Run:
    """Hold a run against another that takes over its checkpoint after two steps, and return it."""
    run, other = start(params, shards), start(params, shards)
    checkpoints = checkpoints_of(run, folder)
    for _ in range(2):
        train_step(run, batch(params, shards))
    loop.save(run, checkpoints)
    checkpoints.close()
    assert loop.resume(other, folder)
    for each in (run, other):
        train_step(each, batch(params, shards))
    for name, tensor in run_tensors(other.denoiser, other.ema, other.optimizers).items():
        assert torch.equal(tensor, run_tensors(run.denoiser, run.ema, run.optimizers)[name]), name
    return run


def test_another_configuration_is_another_run(params: dict, shards: Shards) -> None:
    names = [fingerprint(shards, job_of(params, seed=seed)) for seed in (0, 0, 1)]
    assert names[0] == names[1] != names[2]
