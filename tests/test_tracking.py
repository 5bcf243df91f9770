"""MLflow holds what a run logs; what it refuses or misses is said, and costs no training."""

from __future__ import annotations

import dataclasses
import math
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from sunfish import tracking
from sunfish.config.compose import compose
from sunfish.errors import UserError
from sunfish.files import read_lines
from sunfish.text.shards import Shards
from sunfish.tracking import Tracker
from sunfish.training.log import RunLog
from sunfish.training.run import pretrain
from tests.builders import OFF, job_of, places
from tests.mlflow_store import client_of, config_of, moved_to, run_of, track

pytest_plugins = ["tests.mlflow_store"]

NOBODY = "http://127.0.0.1:9"


def test_log_cut_by_a_kill_is_mended(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 2, "loss": 1}\n{"step": 4, "loss": 1}\n{"step": 6, "lo')
    log = RunLog(tmp_path, 2, Tracker(OFF, {}))
    assert log.lines() == [{"step": 2, "loss": 1}]


def test_outage_is_said_once_with_its_cure(capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    tracker = track(lambda t: t.log_metrics({"loss": 1.0}, 1), lambda t: t.set_tags({"a": "b"}))
    err = capsys.readouterr().err
    assert err.count("MLflow does not answer") == 1 and tracker.lost == 4
    assert "4 calls did not reach MLflow; `python -m sunfish.tracking runs/abc` sends what was missed" in err


@pytest.mark.parametrize(
    ("store", "experiment", "says"),
    [
        (
            "sqlite:///{}/bad.db",
            "test",
            "cannot open its store ((sqlite3.DatabaseError) file is no",
        ),
        ("foo://{}", "test", "refuses the run (Model registry functionality is unavailable; got unsupported"),
        ("sqlite:///{}/mlflow.db", "x" * 600, "refuses the run ('name' exceeds the maximum length"),
        (
            "sqlite:///{}/locked.db",
            "test",
            "cannot open its store ((sqlite3.OperationalError) database",
        ),
    ],
)
def test_a_store_that_cannot_be_used_is_said_in_a_line(
    project: Path, capsys: Any, store: str, experiment: str, says: str
) -> None:
    (project / "bad.db").write_bytes(b"no database" * 99)
    shutil.copy(project / "mlflow.db", project / "locked.db")
    with closing(sqlite3.connect(project / "locked.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        config = dataclasses.replace(config_of(experiment), uri=store.format(project))
        tracker = Tracker(config, {"fingerprint": "abc"})
        tracker.close()
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith(f"tracking: MLflow {says}") and "runs/abc` sends what was missed" in last


def test_silence_is_said(project: Path, capsys: Any, monkeypatch: Any) -> None:
    answers = threading.Event()
    monkeypatch.setattr(Tracker, "_opened", lambda self: answers.wait() and mock.MagicMock())
    tracker = Tracker(config_of(), {"fingerprint": "abc"})
    tracker.close(seconds=0.2)
    assert "still busy after 0 s, 3 calls are not made" in capsys.readouterr().err
    answers.set()
    tracker.thread.join()


def test_refused_calls_lose_only_what_is_refused(project: Path, capsys: Any) -> None:
    track(lambda t: t.log_params({"x": 1, "model.width": 32}))
    track(
        lambda t: t.log_params({"x": 2, "z": 3, "long": "y" * 20_000}),
        lambda t: t.log_params({"x": 4}),
        lambda t: t.log_metrics({"loss": 2.0, "bad\nname": 1.0, "nan": math.nan}, 5),
        lambda t: t.log_artifacts(project / "nothing", "notes"),
        lambda t: t.set_tags({"data.paths": "new"}),
    )
    err, run = capsys.readouterr().err, run_of(project)
    assert err.count("refuses parameters") == 1 and "refuses metrics" in err and "did not take files" in err
    assert "`python -m sunfish.tracking runs/abc` sends what was missed" in err
    assert (run.info.status, run.data.params["x"], run.data.params["z"]) == ("FINISHED", "1", "3")
    assert run.data.metrics["loss"] == 2.0 and run.data.tags["data.paths"] == "new"
    assert set(run.data.metrics) == {"loss", "nan"}


def test_deleted_experiment_is_restored(project: Path, capsys: Any) -> None:
    track()
    client = client_of(project)
    client.delete_experiment(client.get_experiment_by_name("test").experiment_id)
    track(lambda t: t.log_metrics({"loss": 2.0}))
    assert "was deleted; it is restored" in capsys.readouterr().err
    assert run_of(project).data.metrics["loss"] == 2.0


def test_moved_project_takes_its_files_along(project: Path, monkeypatch: Any, capsys: Any) -> None:
    from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

    (project / "note.txt").write_text("text")
    track(lambda t: t.log_artifacts(project / "note.txt", "first"))
    other = moved_to(project.with_name("other"), project, monkeypatch)
    shutil.rmtree(project)
    _artifact_repos_cache.clear()  # as another process begins
    track(lambda t: t.log_artifacts(other / "note.txt", "second"))
    assert "the project was moved" in capsys.readouterr().err
    run = run_of(other)
    assert run.info.artifact_uri.startswith((other / "mlartifacts").as_uri()) and not project.exists()
    for folder in ("first", "second"):
        assert [file.path for file in client_of(other).list_artifacts(run.info.run_id, folder)]
    track()
    assert capsys.readouterr().err == ""


def test_run_says_where_it_comes_from(project: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "wide-lion")
    track(lambda t: t.log_dataset("stories", "0" * 64, "data/shards"))
    run = run_of(project)
    assert run.info.run_name.startswith("wide-lion 20")
    assert {"mlflow.user", "mlflow.source.name", "mlflow.source.type"} <= set(run.data.tags)
    assert "mlflow.source.git.repoURL" not in run.data.tags and run.data.tags["DVC_EXP_NAME"] == "wide-lion"
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("stories", "0" * 36)
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")


def test_replay_needs_a_run_and_tracking(tmp_path: Path, monkeypatch: Any) -> None:
    compose(["tracking=off"], tmp_path / "params.yaml")
    monkeypatch.setattr("sys.argv", ["tracking", str(tmp_path), "--params", str(tmp_path / "params.yaml")])
    with pytest.raises(UserError, match=r"holds no log\.jsonl"):
        tracking.main.__wrapped__()
    (tmp_path / "log.jsonl").touch()
    with pytest.raises(UserError, match="`tracking` leaves MLflow out"):
        tracking.main.__wrapped__()


@pytest.mark.slow
def test_what_mlflow_missed_is_sent_later_and_once(
    params: dict, shards: Shards, project: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)  # from the first step to the last
    job = dataclasses.replace(job_of(params), tracking=config_of())
    pretrain(job, places(project, shards))
    assert "MLflow does not answer" in capsys.readouterr().err
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    run_dir = next((project / "runs").iterdir())
    compose(["tracking.experiment=test"], project / "params.yaml")
    monkeypatch.setattr("sys.argv", ["tracking", str(run_dir), "--params", str(project / "params.yaml")])
    for missing in (6, 0):
        tracking.main()
        assert f"{missing} of 6 logged steps were missing" in capsys.readouterr().out
    run = run_of(project)
    losses = {m.step: m.value for m in client_of(project).get_metric_history(run.info.run_id, "loss")}
    assert losses == {line["step"]: line["loss"] for line in read_lines(run_dir / "log.jsonl")}
    assert run.data.params["model.width"] == "32" and run.data.tags["fingerprint"] == run_dir.name


@pytest.mark.slow
def test_training_is_tracked_whole(params: dict, shards: Shards, project: Path, capsys: Any) -> None:
    job = dataclasses.replace(job_of(params), tracking=config_of())
    compose([], project / "params.yaml")
    pretrain(job, dataclasses.replace(places(project, shards), params=project / "params.yaml"))
    run, client = run_of(project), client_of(project)
    files = {file.path for file in client.list_artifacts(run.info.run_id, "pretrain")}
    assert files == {"pretrain/params.yaml", "pretrain/samples.jsonl"}
    assert run.info.run_name.startswith("mini 20") and run.inputs.dataset_inputs
    assert run.data.tags["data.sources.stories.num_documents"] == "600"
    assert {"model_sha256", "shards_sha256", "fingerprint"} <= set(run.data.tags)
    assert "tracking:" not in capsys.readouterr().err
