"""An exported folder -> MLflow: its numbers, its files, and a registered model that answers in text."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from sunfish.config.schema.tracking import TrackingConfig
from sunfish.files import read_json
from sunfish.tracking import PACKAGE, Tracker

NAME = "sunfish"
TYPES = {"str": "string", "int": "long", "float": "double", "bool": "boolean"}  # MLflow's names


def register(folder: Path, config: TrackingConfig, settings: type) -> None:
    """Add the folder to the run of the model it was made from; an outage loses nothing but this.

    `settings` is the dataclass of what the registered model may be told beside the texts.
    """
    manifest = read_json(folder / "manifest.json")
    tracker = Tracker(config, manifest["made_from"])
    parity = manifest["parity"]
    metrics = {
        "export.relative_error_per_call": parity["relative_error_per_call"],
        "export.different_ids": float(sum(row["different_ids"] for row in parity["samplers"])),
    }
    for precision, numbers in manifest["quality"].items():
        metrics |= {f"export.{precision}.{key}": value for key, value in numbers.items()}
    tracker.log_metrics(metrics)
    params = {
        field.name: (TYPES[field.type.split(" ")[0]], field.default) for field in dataclasses.fields(settings)
    }
    tracker.log_model(PACKAGE / "runtime" / "mlflow_model.py", folder, NAME, params)
    tracker.close()
