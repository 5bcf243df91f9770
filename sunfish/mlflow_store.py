"""MLflow's side of tracking: a store, its experiment, and one run in it.

Only the tracker's thread loads this: MLflow takes seconds."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlparse

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

from sunfish.files import project_root

T = TypeVar("T")
SQLITE = "sqlite:///"
FILES = "mlartifacts"  # the folder beside a sqlite store that holds its files
BATCH = 1000  # metrics that MLflow takes at once; parameters and tags a tenth of it
MAX_REFUSALS = 8  # of one call, before the rest of it is given up
LOCATIONS = {  # where a sqlite store keeps absolute paths of files
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}


def is_refusal(error: BaseException) -> bool:
    """Say whether MLflow answered that it takes no such thing; all else is an outage."""
    return isinstance(error, MlflowException) and error.get_http_status_code() < 500


@dataclass(frozen=True, eq=False)
class Store:
    """One run in a store, open for writing."""

    client: MlflowClient
    uri: str
    run_id: str

    @classmethod
    def open(cls, uri: str, experiment: str, tags: dict[str, str], name: str) -> Store:
        """Carry on the run that has these tags, or create one called `name`."""
        for chatty in ("alembic", "mlflow"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # the tracker says it in a line
        client = MlflowClient(tracking_uri=uri)
        experiment_id = open_experiment(client, uri, experiment)
        query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        runs = client.search_runs([experiment_id], query, max_results=1) if tags else []
        if runs:
            run_id = runs[0].info.run_id
        else:
            run_id = client.create_run(experiment_id, tags=origin() | tags, run_name=name).info.run_id
        client.update_run(run_id, status="RUNNING")
        return cls(client, uri, run_id)

    def log_metrics(self, values: Sequence[tuple[str, float, int, int]], model_id: str | None = None) -> None:
        """Log (key, value, milliseconds since 1970, step)."""
        metrics = [Metric(*value, model_id=model_id) for value in values]
        send_batches(metrics, BATCH, lambda batch: self.client.log_batch(self.run_id, metrics=batch))

    def log_params(self, values: dict[str, Any]) -> None:
        """Log a flat configuration; MLflow refuses a value that differs from the one it has."""
        params = [Param(key, str(value)) for key, value in values.items()]
        send_batches(params, BATCH // 10, lambda batch: self.client.log_batch(self.run_id, params=batch))

    def set_tags(self, tags: dict[str, Any]) -> None:
        """Set tags; unlike parameters they may change."""
        values = [RunTag(key, str(value)) for key, value in tags.items()]
        send_batches(values, BATCH // 10, lambda batch: self.client.log_batch(self.run_id, tags=batch))

    def log_dataset(self, name: str, digest: str, source: str) -> None:
        """Log what the run was trained on; MLflow takes 36 characters of the digest."""
        dataset = Dataset(name, digest[:36], "local", json.dumps({"uri": source}))
        context = InputTag("mlflow.data.context", "training")
        self.client.log_inputs(self.run_id, [DatasetInput(dataset, [context])])

    def log_artifacts(self, path: Path, folder: str) -> None:
        """Log a file, or a folder's files, under `folder`."""
        log = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
        log(self.run_id, str(path), folder)

    def steps(self, key: str) -> set[int]:
        """Return the steps at which a metric is logged."""
        return {metric.step for metric in self.client.get_metric_history(self.run_id, key)}

    def metrics(self) -> dict[str, float]:
        """Return the last value of each metric."""
        return dict(self.client.get_run(self.run_id).data.metrics)

    def tags(self) -> dict[str, str]:
        """Return the run's tags."""
        return dict(self.client.get_run(self.run_id).data.tags)

    def close(self, status: str) -> None:
        """End the run."""
        self.client.set_terminated(self.run_id, status)


def now() -> int:
    """Return milliseconds since 1970."""
    return int(time.time() * 1000)


def send_batches(items: list[T], size: int, send: Callable[[list[T]], Any]) -> None:
    """Send all items; a batch that is refused is halved until only what MLflow does not take is lost.

    Raises:
        MlflowException: the first refusal, after everything else was sent; or an outage.
    """
    waiting = [items[start : start + size] for start in range(0, len(items), size)]
    refusals: list[MlflowException] = []
    while waiting and len(refusals) < MAX_REFUSALS:
        batch = waiting.pop(0)
        try:
            send(batch)
        except MlflowException as error:
            if not is_refusal(error):
                raise
            half = len(batch) // 2
            if half:
                waiting[:0] = [batch[:half], batch[half:]]
            else:
                refusals.append(error)
    if refusals:
        raise refusals[0]


def origin() -> dict[str, str]:
    """Return who made a run, with which script, at which commit, and DVC's names of it."""
    tags = resolve_tags({})
    tags.pop("mlflow.source.git.repoURL", None)  # it may hold a password
    script = Path(sys.argv[0]).resolve()
    if script.is_relative_to(project_root()):
        tags["mlflow.source.name"] = str(script.relative_to(project_root()))
    dvc = {key: os.environ.get(key, "") for key in ("DVC_EXP_NAME", "DVC_STAGE")}
    return tags | {key: value for key, value in dvc.items() if value}


def open_experiment(client: MlflowClient, uri: str, name: str) -> str:
    """Return an experiment's id; it is created, restored if it was deleted, and follows a moved project."""
    location, found = files_of(uri), client.get_experiment_by_name(name)
    if found is None:
        return str(client.create_experiment(name, artifact_location=location))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
        say(f"the experiment {name!r} was deleted; it is restored")
    if location and found.artifact_location != location and is_files_folder(found.artifact_location):
        move_locations(Path(uri.removeprefix(SQLITE)), found.artifact_location, location)
    elif not exists_here(found.artifact_location):
        say(
            f"the experiment {name!r} keeps its files in {found.artifact_location}, which is not here; set "
            "tracking.experiment to a new name to keep them beside this project"
        )
    return str(found.experiment_id)


def files_of(uri: str) -> str | None:
    """Return where a sqlite store's files lie, beside it; of other stores the server decides."""
    if not uri.startswith(SQLITE):
        return None
    return (Path(uri.removeprefix(SQLITE)).resolve().parent / FILES).as_uri()


def is_files_folder(location: str) -> bool:
    """Say whether a location is one that `files_of` returned, here or elsewhere."""
    return location.startswith("file:///") and location.endswith(f"/{FILES}")


def exists_here(location: str) -> bool:
    """Say whether files can be written to a location, as far as a path tells."""
    url = urlparse(location)
    return url.scheme not in ("", "file") or Path(unquote(url.path)).parent.is_dir()


def move_locations(database: Path, old: str, new: str) -> None:
    """Make a moved or copied store point to the files beside it instead of where they were before."""
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        for table, columns in LOCATIONS.items():
            there = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
            for column in there.intersection(columns):
                changed = f"UPDATE {table} SET {column} = ? || substr({column}, ?)"
                where = f" WHERE {column} = ? OR substr({column}, 1, ?) = ?"
                connection.execute(changed + where, (new, len(old) + 1, old, len(old) + 1, old + "/"))
    say(f"the project was moved: MLflow's files are looked for in {new}, no longer in {old}")
    if not Path(unquote(urlparse(new).path)).is_dir():
        say(f"no such folder: copy {old} there, or earlier runs have no files")


def say(message: str) -> None:
    """Print one line to standard error."""
    print(f"tracking: {message}", file=sys.stderr)
