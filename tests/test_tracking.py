from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from sunfish.config.compose import compose
from sunfish.text.shards import Shards
from sunfish.tracking import Tracker
from sunfish.training.log import RunLog, read_lines
from sunfish.training.run import pretrain
from tests.builders import OFF, job_of, places


def test_a_log_cut_by_a_kill_is_mended(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 2, "loss": 1}\n{"step": 4, "loss": 1}\n{"step": 6, "lo')
    log = RunLog(tmp_path, 2, Tracker(OFF, {}))
    assert log.lines() == [{"step": 2, "loss": 1}]


def test_tracking_that_does_not_answer_stops_nothing(capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    tracker = Tracker(dataclasses.replace(OFF, enabled=True), {"fingerprint": "x"})
    tracker.log_metrics({"loss": 1.0}, 1)
    tracker.close()
    assert "MLflow does not answer" in capsys.readouterr().err


@pytest.mark.slow
def test_what_mlflow_missed_is_sent_later_and_once(
    params: dict, shards: Shards, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    from mlflow import MlflowClient

    from sunfish import tracking

    monkeypatch.setenv(
        "MLFLOW_TRACKING_URI", "http://127.0.0.1:9"
    )  # nobody there from the first step to the last
    job = dataclasses.replace(job_of(params), tracking=dataclasses.replace(OFF, enabled=True))
    pretrain(job, places(tmp_path, shards))
    assert "MLflow does not answer" in capsys.readouterr().err
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    run_dir = next((tmp_path / "runs").iterdir())
    compose([], tmp_path / "params.yaml")
    monkeypatch.setattr("sys.argv", ["tracking", str(run_dir), "--params", str(tmp_path / "params.yaml")])
    for missing in (6, 0):
        tracking.main()
        assert f"{missing} of 6 logged steps were missing" in capsys.readouterr().out
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("sunfish").experiment_id])
    losses = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "loss")}
    assert losses == {line["step"]: line["loss"] for line in read_lines(run_dir / "log.jsonl")}
    assert run.data.params["model.width"] == "32" and run.data.tags["fingerprint"] == run_dir.name


@pytest.mark.slow
def test_mlflow_keeps_one_run_a_model(tmp_path: Path, monkeypatch: Any) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for step in (1, 2):
        tracker = Tracker(dataclasses.replace(OFF, enabled=True), {"model_sha256": "abc"})
        tracker.log_metrics({"loss": 1.0 / step}, step)
        tracker.log_params({"model.width": 128})
        tracker.close()
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("test").experiment_id])
    assert len(runs) == 1 and runs[0].info.status == "FINISHED" and runs[0].data.metrics["loss"] == 0.5
