"""The loggers beside MLflow hold what the log holds, and one that fails is left out."""

from __future__ import annotations

import csv
import dataclasses
import re
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from sunfish import loggers
from sunfish.errors import InvalidValue
from sunfish.files import read_lines
from sunfish.text.shards import Shards
from sunfish.tracking import Tracker
from sunfish.training.run import pretrain
from tests.builders import job_of, places
from tests.mlflow_store import config_of


def test_fabric_s_loggers_hold_what_the_log_holds(params: dict, shards: Shards, tmp_path: Path) -> None:
    job = dataclasses.replace(job_of(params), tracking=config_of("test", "csv", "tensorboard"))
    pretrain(job, places(tmp_path, shards))
    (folder,) = (tmp_path / "runs").iterdir()
    with (folder / "csv" / "version_0" / "metrics.csv").open() as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    assert rows == read_lines(folder / "log.jsonl")
    assert list((folder / "tensorboard" / "version_0").glob("events.*"))


def test_wandb_has_what_was_logged(tmp_path: Path, monkeypatch: Any, capfd: Any) -> None:
    pytest.importorskip("wandb", reason="wandb is optional: pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracker = Tracker(config_of("test", "wandb"), {}, folder=tmp_path / "abc")
    tracker.log_params({"model.width": 32})
    for step in range(3):
        tracker.log_metrics({"loss": 3.0 - step}, step)
    tracker.close()
    assert list((tmp_path / "abc" / "wandb").glob("offline-run-*-abc/run-abc.wandb"))
    said = capfd.readouterr().err
    assert re.search(r"Run summary:\s+wandb:\s+loss 1\s", said) and "tracking:" not in said


def test_a_logger_that_fails_is_left_out(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    failing = mock.MagicMock()
    failing.log_metrics.side_effect = OSError("no network\nat all")
    monkeypatch.setitem(loggers.LOGGERS, "csv", lambda folder, config: failing)
    tracker = Tracker(config_of("test", "csv"), {}, folder=tmp_path)
    for step in range(3):
        tracker.log_metrics({"loss": 1.0}, step)
    tracker.close()
    assert capsys.readouterr().err == "tracking: csv fails (no network) and is left out; the run goes on\n"
    assert failing.log_metrics.call_count == 1 and not failing.finalize.called


def test_loggers_are_known_and_installed(monkeypatch: Any) -> None:
    monkeypatch.setattr("sunfish.config.schema.tracking.find_spec", lambda name: None)
    assert config_of("test", "mlflow", "csv").loggers == ("mlflow", "csv")
    with pytest.raises(InvalidValue, match="names wandb, which is not installed: pip install wandb"):
        config_of("test", "wandb")
    with pytest.raises(InvalidValue, match="holds 'comet': must be of mlflow, csv"):
        config_of("test", "comet")
