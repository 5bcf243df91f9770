"""MLflow, and other loggers beside it: one run per model, never able to stop a training.

All calls go through a queue to one thread. A call that fails is said and lost, the next ones are made: the
JSON lines on disk are the truth. Metrics go in batches, since each call is a transaction of some milliseconds
in a thread that shares Python's lock with the training.

    python -m sunfish.tracking runs/75b8e5187b93cd55     # send what MLflow missed of a run
"""

from __future__ import annotations

import argparse
import datetime
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sunfish.config.compose import read_section
from sunfish.config.schema.tracking import TrackingConfig
from sunfish.errors import UserError, report_errors
from sunfish.files import project_root, read_json, read_lines
from sunfish.loggers import Loggers

if TYPE_CHECKING:
    from sunfish.mlflow_store import Store

    Job = Callable[[Store], Any]

SECONDS_TO_FINISH = 120.0  # MLflow alone takes up to half of it to load on a busy machine
SECONDS_BETWEEN_BATCHES = 20.0
SECONDS_TO_RETRY = 60.0  # after an outage
MAX_REASON = 300  # characters of what MLflow said
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


class Tracker:
    """One MLflow run, opened or reopened by `tags` (a run with the same values of them is carried on).

    `name` begins the name of a new run, unless DVC has a name for the experiment. Other loggers write into
    `folder`, a training's."""

    def __init__(
        self, config: TrackingConfig, tags: dict[str, str], name: str = "sunfish", folder: Path | None = None
    ) -> None:
        self.config, self.tags, self.name = config, tags, name
        self.enabled, self.lost = config.enabled and "mlflow" in config.loggers, 0
        self.loggers = Loggers(config, folder)
        self.jobs: queue.Queue[tuple[str, Job] | None] = queue.Queue()
        self.store: Store | None = None
        self.retry_at = 0.0
        self.said: set[str] = set()
        self.waiting: list[tuple[str, float, int, int]] = []  # key, value, milliseconds, step
        self.sent = time.monotonic()
        if self.enabled:
            self.thread = threading.Thread(target=self._work, daemon=True)
            self.thread.start()
            self.call("the run", lambda store: None)

    def log_metrics(self, values: dict[str, float], step: int = 0) -> None:
        """Log numbers at a step; MLflow gets them with those of the next seconds."""
        self.loggers.call("log_metrics", values, step)
        if self.enabled:
            milliseconds = int(time.time() * 1000)
            self.waiting += [(key, value, milliseconds, step) for key, value in values.items()]
            if time.monotonic() - self.sent > SECONDS_BETWEEN_BATCHES:
                self.send()

    def send(self) -> None:
        """Send the numbers logged so far."""
        waiting, self.waiting, self.sent = self.waiting, [], time.monotonic()
        self.call("metrics", lambda store: store.log_metrics(waiting))

    def log_params(self, values: dict[str, Any]) -> None:
        """Log a flat configuration; values that are there already stay."""
        self.loggers.call("log_hyperparams", values)
        self.call("parameters", lambda store: store.log_params(values))

    def set_tags(self, tags: dict[str, Any]) -> None:
        """Set tags: what may change between two starts of a run."""
        self.call("tags", lambda store: store.set_tags(tags))

    def log_dataset(self, name: str, digest: str, source: str) -> None:
        """Log what the run was trained on."""
        self.call("the data set", lambda store: store.log_dataset(name, digest, source))

    def log_artifacts(self, path: Path, folder: str) -> None:
        """Log a file, or a folder's files, under `folder`."""
        self.call("files", lambda store: store.log_artifacts(path, folder))

    def call(self, kind: str, job: Job) -> None:
        """Make a call in the tracker's thread; `kind` names in a message what is lost if it fails."""
        if self.enabled:
            self.jobs.put((kind, job))

    def close(self, status: str = "FINISHED", seconds: float = SECONDS_TO_FINISH) -> None:
        """End the run with a status, and wait for what is still in the queue, at most so long."""
        self.loggers.call("finalize", "success" if status == "FINISHED" else "failed")
        if not self.enabled:
            return
        self.send()
        self.call("the end of the run", lambda store: store.close(status))
        self.jobs.put(None)
        self.thread.join(seconds)
        if self.thread.is_alive():
            left = self.jobs.qsize()
            busy = f"MLflow is still busy after {seconds:.0f} s"
            self._say(f"{busy}, {left} calls are not made; {self._cure()}")
        elif self.retry_at:
            self._say(f"{self.lost} calls did not reach MLflow; {self._cure()}")

    def _work(self) -> None:
        while (job := self.jobs.get()) is not None:
            if time.monotonic() < self.retry_at:
                self.lost += 1
                continue
            try:
                job[1](self._opened())
            except Exception as error:  # whatever it is, training goes on
                self.lost += 1
                self._report(job[0], error)

    def _opened(self) -> Store:
        if self.store is None:
            for key, value in ENVIRONMENT.items():
                os.environ.setdefault(key, value)
            from sunfish.mlflow_store import Store  # takes seconds: training does not wait for it

            uri, experiment = store_uri(self.config), self.config.experiment
            self.store = Store.open(uri, experiment, self.tags, self._run_name())
        return self.store

    def _run_name(self) -> str:
        date = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
        return f"{os.environ.get('DVC_EXP_NAME') or self.name} {date}"

    def _report(self, kind: str, error: Exception) -> None:
        """Say a failure, each kind once; after an outage, leave MLflow alone for a while."""
        refused = getattr(error, "get_http_status_code", lambda: 500)() < 500
        is_remote = store_uri(self.config).startswith("http")
        if self.store is None or (not refused and is_remote):
            self.retry_at = time.monotonic() + SECONDS_TO_RETRY
            missing = "does not answer" if is_remote else "cannot open its store"
            verb = "refuses the run" if refused else missing
            self._say_once("outage", f"MLflow {verb} ({_reason(error)}); the run goes on")
        else:
            verb = "refuses" if refused else "did not take"
            message = f"MLflow {verb} {kind} ({_reason(error)}); all else is sent; {self._cure()}"
            self._say_once(kind, message)

    def _cure(self) -> str:
        run = self.tags.get("fingerprint")
        command = f"python -m sunfish.tracking runs/{run}" if run else f"dvc repro -f -s {_stage()}"
        return f"`{command}` sends what was missed"

    def _say_once(self, key: str, message: str) -> None:
        if key not in self.said:
            self.said.add(key)
            self._say(message)

    def _say(self, message: str) -> None:
        print(f"tracking: {message}", file=sys.stderr)


def _stage() -> str:
    return os.environ.get("DVC_STAGE") or Path(sys.argv[0]).stem


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) <= MAX_REASON else lines[0][:MAX_REASON] + " ..."


def store_uri(config: TrackingConfig) -> str:
    """Return the store's address: the environment's, the configured one, or sqlite in the project."""
    default = f"sqlite:///{project_root() / 'mlflow.db'}"
    return os.environ.get("MLFLOW_TRACKING_URI") or config.uri or default


def replay(tracker: Tracker, run_dir: Path) -> None:
    """Send a run's configuration and samples, and the logged steps that MLflow does not have yet."""
    params = read_json(run_dir / "params.json")
    tracker.log_params({key: value for key, value in params.items() if key != "shards"})
    tracker.set_tags({"shards_sha256": params["shards"]})
    if (run_dir / "samples.jsonl").is_file():
        tracker.log_artifacts(run_dir / "samples.jsonl", "pretrain")
    tracker.call("metrics", lambda store: send_missing(store, run_dir))


def send_missing(store: Store, run_dir: Path) -> None:
    """Send the logged steps that MLflow does not have."""
    lines, there, now = read_lines(run_dir / "log.jsonl"), store.steps("loss"), int(time.time() * 1000)
    missing = [line for line in lines if line["step"] not in there]
    store.log_metrics(
        [(key, value, now, line["step"]) for line in missing for key, value in line.items() if key != "step"]
    )
    print(f"{run_dir}: {len(missing)} of {len(lines)} logged steps were missing and are in MLflow now")


@report_errors
def main() -> None:
    """Send to MLflow what it missed of a run, from the JSON lines on disk."""
    parser = argparse.ArgumentParser(prog="python -m sunfish.tracking", description=main.__doc__)
    parser.add_argument("run", type=Path, help="a folder in runs/")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    arguments = parser.parse_args()
    if not (arguments.run / "log.jsonl").is_file():
        raise UserError(f"{arguments.run}: holds no log.jsonl; name a run's folder in runs/")
    config = read_section(arguments.params, "tracking")
    if not config.enabled or "mlflow" not in config.loggers:
        raise UserError(f"{arguments.params}: `tracking` leaves MLflow out; compose with tracking=mlflow")
    tracker = Tracker(config, {"fingerprint": arguments.run.resolve().name})
    replay(tracker, arguments.run)
    tracker.close()
    if tracker.retry_at or tracker.thread.is_alive():
        raise UserError("MLflow still does not answer; the lines stay on disk")


if __name__ == "__main__":
    main()
