from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from sunfish.errors import UserError
from sunfish.text.shards import Shards
from sunfish.training import checkpoint, loop
from sunfish.training.state import run_tensors
from sunfish.training.train_step import train_step
from tests.builders import batch, checkpoints_of, start


@pytest.mark.parametrize("beside", [False, True])
def test_checkpoints_are_whole_and_few(
    params: dict, shards: Shards, tmp_path: Path, capsys: Any, beside: bool
) -> None:
    (tmp_path / ".step-00000009.tmp").mkdir()  # what a kill in the middle of a save leaves
    run = start(params, shards)
    checkpoints = checkpoints_of(run, tmp_path, beside)
    for _ in range(3):
        train_step(run, batch(params, shards))
        loop.save(run, checkpoints)
    checkpoints.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["LATEST", "step-00000002", "step-00000003"]
    other = start(params, shards)
    assert loop.resume(other, tmp_path) and other.step == 3
    next((tmp_path / "step-00000003").glob("*.safetensors")).write_bytes(b"cut")
    before = start(params, shards)
    assert loop.resume(before, tmp_path) and before.step == 2
    assert "altered; it cannot be read; taking the one before step-00000003" in capsys.readouterr().err
    next((tmp_path / "step-00000002").glob("*.safetensors")).unlink()
    with pytest.raises(UserError, match="none of its checkpoints can be read"):
        checkpoint.find_checkpoint(tmp_path)


def test_a_checkpoint_written_beside_the_training_holds_the_step_it_was_taken_at(
    params: dict, shards: Shards, tmp_path: Path, monkeypatch: Any
) -> None:
    trained_on, save = threading.Event(), checkpoint.dcp.save

    def save_late(*arguments: Any, **named: Any) -> None:
        assert trained_on.wait(30)
        save(*arguments, **named)

    run = start(params, shards)
    train_step(run, batch(params, shards))
    then = {
        name: tensor.clone() for name, tensor in run_tensors(run.denoiser, run.ema, run.optimizers).items()
    }
    checkpoints = checkpoints_of(run, tmp_path, beside=True)
    monkeypatch.setattr(checkpoint.dcp, "save", save_late)
    loop.save(run, checkpoints)
    train_step(run, batch(params, shards))
    trained_on.set()
    checkpoints.close()
    other = start(params, shards)
    assert loop.resume(other, tmp_path) and other.step == 1
    for name, tensor in run_tensors(other.denoiser, other.ema, other.optimizers).items():
        assert torch.equal(tensor, then[name]), name


@pytest.mark.parametrize("beside", [False, True])
def test_a_full_disk_leaves_the_checkpoint_before(
    params: dict, shards: Shards, tmp_path: Path, monkeypatch: Any, beside: bool
) -> None:
    run = start(params, shards)
    checkpoints = checkpoints_of(run, tmp_path, beside)
    train_step(run, batch(params, shards))
    loop.save(run, checkpoints)
    checkpoints.wait()
    train_step(run, batch(params, shards))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.dcp, "save", full)
    with pytest.raises(UserError, match="cannot be written.*No space left.*the checkpoint before is kept"):
        loop.save(run, checkpoints)
        checkpoints.wait()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["step-00000001"]
    again = start(params, shards)
    assert loop.resume(again, tmp_path) and again.step == 1
