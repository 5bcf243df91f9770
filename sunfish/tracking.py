"""MLflow: one run per model, never able to stop a training.

All calls go through a queue to one thread; what fails is said once and dropped, since the JSON lines on disk
are the truth. Metrics go in batches: one by one, each is a transaction of some milliseconds in a thread that
shares Python's lock with the training.

    python -m sunfish.tracking runs/75b8e5187b93cd55     # send what MLflow missed of a run
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import queue
import re
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

from sunfish.config.compose import read_section
from sunfish.config.schema.tracking import TrackingConfig
from sunfish.errors import UserError, report_errors
from sunfish.files import project_root, read_json

SECONDS_TO_FINISH = 30.0
SECONDS_BETWEEN_BATCHES = 20.0
PACKAGE = Path(__file__).parent
BATCH = 1000  # metrics that MLflow takes at once; parameters and tags a tenth of it


class Tracker:
    """One MLflow run, opened or reopened by `tags` (a run with the same values of them is carried on)."""

    def __init__(self, section: TrackingConfig, tags: dict[str, str]) -> None:
        self.jobs: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self.enabled, self.failed = section.enabled, False
        self.client: Any = None
        self.run_id = ""
        self.waiting: list[tuple[str, float, int, int]] = []  # key, value, milliseconds, step
        self.sent = time.monotonic()
        if self.enabled:
            self.thread = threading.Thread(target=self._work, daemon=True)
            self.thread.start()
            self.jobs.put(lambda: self._open(section, tags))

    def log_metrics(self, values: dict[str, float], step: int = 0) -> None:
        """Log numbers at a step; they are sent with those of the next seconds."""
        if not self.enabled or self.failed:
            return
        self.waiting += [(key, value, int(time.time() * 1000), step) for key, value in values.items()]
        if time.monotonic() - self.sent > SECONDS_BETWEEN_BATCHES:
            self._send()

    def _send(self) -> None:
        waiting, self.waiting, self.sent = self.waiting, [], time.monotonic()

        def send() -> None:
            from mlflow.entities import Metric

            for start in range(0, len(waiting), BATCH):
                self.client.log_batch(
                    self.run_id, metrics=[Metric(*values) for values in waiting[start : start + BATCH]]
                )

        self._put(send)

    def replay(self, run_dir: Path) -> None:
        """Send a run's configuration, and the logged steps that MLflow does not have yet."""
        told = read_json(run_dir / "told.json")
        self.log_params({key: value for key, value in told.items() if key != "shards"})

        def send() -> None:
            from mlflow.entities import Metric

            lines = [
                json.loads(line) for line in (run_dir / "log.jsonl").read_text(encoding="utf-8").splitlines()
            ]
            there = {metric.step for metric in self.client.get_metric_history(self.run_id, "loss")}
            now = int(time.time() * 1000)
            missing = [
                (key, value, now, line["step"])
                for line in lines
                if line["step"] not in there
                for key, value in line.items()
            ]
            metrics = [Metric(*values) for values in missing if values[0] != "step"]
            for start in range(0, len(metrics), BATCH):
                self.client.log_batch(self.run_id, metrics=metrics[start : start + BATCH])
            print(
                f"{run_dir}: {len({m.step for m in metrics})} of {len(lines)} logged steps were missing and are in MLflow now"
            )

        self._put(send)

    def log_params(self, values: dict[str, Any]) -> None:
        """Log a flat configuration; values already there stay."""

        def send() -> None:
            from mlflow.entities import Param

            params = [Param(key, str(value)) for key, value in values.items()]
            for start in range(0, len(params), BATCH // 10):
                self.client.log_batch(self.run_id, params=params[start : start + BATCH // 10])

        self._put(send)

    def set_tags(self, tags: dict[str, str]) -> None:
        """Set tags."""
        self._put(lambda: [self.client.set_tag(self.run_id, key, value) for key, value in tags.items()])

    def log_artifacts(self, path: Path, folder: str) -> None:
        """Log a file, or a folder's files, under `folder`."""
        if path.is_dir():
            self._put(lambda: self.client.log_artifacts(self.run_id, str(path), folder))
        else:
            self._put(lambda: self.client.log_artifact(self.run_id, str(path), folder))

    def log_model(self, script: Path, folder: Path, name: str, params: dict[str, tuple[str, Any]]) -> None:
        """Log an exported folder as a model that takes and gives texts, registered as `name`, its alias
        `newest` moved to it.

        `script` is the model's code; the project's package goes with it, so that it runs where the project is
        not installed. `params` are what it may be told beside the texts, by name: MLflow's type, and what it
        is unless told (None: the model knows)."""

        def send() -> None:
            import mlflow
            from mlflow.models import ModelSignature
            from mlflow.types.schema import ColSpec, ParamSchema, ParamSpec, Schema

            texts, told = (
                Schema([ColSpec("string")]),
                ParamSchema([ParamSpec(param, *spec) for param, spec in params.items()]),
            )
            logging.getLogger("mlflow").setLevel(logging.WARNING)
            mlflow.set_tracking_uri(self.uri)
            with mlflow.start_run(run_id=self.run_id):
                logged = mlflow.pyfunc.log_model(
                    name=name, python_model=str(script), artifacts={"folder": str(folder)}, code_paths=[str(PACKAGE)],
                    input_example=["the dog [MASK] ."], signature=ModelSignature(texts, texts, told),
                    pip_requirements=["mlflow", *runtime_requirements()], registered_model_name=name,
                )  # fmt: skip
            self.client.set_registered_model_alias(name, "newest", logged.registered_model_version)

        self._put(send)

    def close(self, status: str = "FINISHED") -> None:
        """End the run with a status and wait a little for what is still in the queue."""
        if self.enabled:
            self._send()
            self._put(lambda: self.client.set_terminated(self.run_id, status))
            self.jobs.put(None)
            self.thread.join(SECONDS_TO_FINISH)

    def _put(self, job: Callable[[], Any]) -> None:
        if self.enabled and not self.failed:
            self.jobs.put(job)

    def _work(self) -> None:
        while (job := self.jobs.get()) is not None:
            if self.failed:
                continue
            try:
                job()
            except Exception as error:  # whatever it is, training goes on
                self.failed = True
                print(
                    f"tracking: MLflow does not answer ({error}); the run's JSON lines go on", file=sys.stderr
                )

    def _open(self, section: TrackingConfig, tags: dict[str, str]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        for chatty in ("alembic", "mlflow"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        from mlflow import MlflowClient

        root = project_root()
        uri = os.environ.get("MLFLOW_TRACKING_URI") or section.uri or f"sqlite:///{root / 'mlflow.db'}"
        self.uri, self.client = uri, MlflowClient(tracking_uri=uri)
        found = self.client.get_experiment_by_name(section.experiment)
        place = (root / "mlartifacts").as_uri() if uri.startswith("sqlite") else None
        experiment = (
            found.experiment_id
            if found
            else self.client.create_experiment(section.experiment, artifact_location=place)
        )
        query = " and ".join(f"tags.{key} = '{value}'" for key, value in tags.items())
        runs = self.client.search_runs([experiment], query, max_results=1) if tags else []
        self.run_id = (
            runs[0].info.run_id if runs else self.client.create_run(experiment, tags=tags).info.run_id
        )
        self.client.update_run(self.run_id, status="RUNNING")
        for key in ("DVC_EXP_NAME", "DVC_STAGE"):
            if os.environ.get(key):
                self.client.set_tag(self.run_id, key, os.environ[key])


def runtime_requirements() -> list[str]:
    """Return the packages of the runtime layer, as installed here: what sampling an exported folder needs."""
    needed = [
        re.split(r"[><=! ;\[]", line)[0] for line in requires("sunfish") or [] if "extra ==" not in line
    ]
    return [f"{name}=={version(name)}" for name in needed]


@report_errors
def main() -> None:
    """Send to MLflow what it missed of a run, from the JSON lines on disk."""
    parser = argparse.ArgumentParser(prog="python -m sunfish.tracking", description=main.__doc__)
    parser.add_argument("run", type=Path, help="a folder in runs/")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    arguments = parser.parse_args()
    if not (arguments.run / "log.jsonl").is_file():
        raise UserError(f"{arguments.run}: holds no log.jsonl; name a run's folder in runs/")
    tracker = Tracker(
        read_section(arguments.params, "tracking"),
        {"fingerprint": arguments.run.resolve().name},
    )
    tracker.replay(arguments.run)
    tracker.close()
    if tracker.failed:
        raise UserError("MLflow still does not answer; the lines stay on disk")


if __name__ == "__main__":
    main()
