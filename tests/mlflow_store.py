"""A project's folder with an MLflow store of its own, as fixtures, and what is asked of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sunfish.config.schema.tracking import TrackingConfig
from sunfish.tracking import Tracker


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sqlite store with its tables, which take seconds to make."""
    from mlflow import MlflowClient

    database = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{database}").search_experiments()
    return database


@pytest.fixture
def project(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder with a store of its own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return moved_to(tmp_path / "project", empty_store.parent, monkeypatch)


def moved_to(project: Path, old: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy a project and go there."""
    shutil.copytree(old, project)
    monkeypatch.setenv("DVC_ROOT", str(project))
    return project


def config_of(experiment: str = "test", *loggers: str) -> TrackingConfig:
    return TrackingConfig(enabled=True, experiment=experiment, uri=None, loggers=loggers or ("mlflow",))


def track(*calls: Callable[[Tracker], Any], fingerprint: str = "abc") -> Tracker:
    """Track one run from beginning to end."""
    tracker = Tracker(config_of(), {"fingerprint": fingerprint}, "mini")
    for call in calls:
        call(tracker)
    tracker.close()
    return tracker


def client_of(project: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{project / 'mlflow.db'}")


def run_of(project: Path) -> Any:
    """Return the one run of the store."""
    client = client_of(project)
    (run,) = client.search_runs([client.get_experiment_by_name("test").experiment_id])
    return run
