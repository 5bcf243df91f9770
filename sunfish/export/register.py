"""An exported folder -> MLflow: its numbers, its files, and a registered model that answers in text."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from sunfish.config.schema.tracking import TrackingConfig
from sunfish.files import read_json
from sunfish.tracking import PACKAGE, Tracker

NAME = "sunfish"
TYPES = {"str": "string", "int": "long", "float": "double"}  # MLflow's names


def register(folder: Path, section: TrackingConfig, settings: type) -> None:
    """Add the folder to the run of the model it was made from; an outage loses nothing but this.

    `settings` is the dataclass of what the registered model may be told beside the texts.
    """
    manifest = read_json(folder / "manifest.json")
    tracker = Tracker(section, manifest["made_from"])
    walks, quality = manifest["parity"]["walks"], manifest["quality"]
    tracker.log_metrics({"export.relative_error_per_call": manifest["parity"]["relative_error_per_call"]})
    tracker.log_metrics({"export.different_ids": float(sum(walk["different_ids"] for walk in walks))})
    tracker.log_metrics(
        {
            f"export.{precision}.{key}": value
            for precision, numbers in quality.items()
            for key, value in numbers.items()
        }
    )
    params = {
        field.name: (TYPES[field.type.split(" ")[0]], field.default) for field in dataclasses.fields(settings)
    }
    tracker.log_model(PACKAGE / "served.py", folder, NAME, params)
    tracker.close()
