"""An exported folder -> MLflow: its numbers, its files, and a registered model that answers in text."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sunfish.config.schema.tracking import TrackingConfig
from sunfish.files import read_json
from sunfish.tracking import Tracker

if TYPE_CHECKING:
    from sunfish.mlflow_store import Store

NAME = "sunfish"
PACKAGE = Path(__file__).parents[1]
TYPES = {"str": "string", "int": "long", "float": "double", "bool": "boolean"}  # MLflow's names
SECONDS = 3600.0  # the files of a large model take time, and nothing else waits for them


def register(folder: Path, config: TrackingConfig, settings: type) -> None:
    """Add the folder to the run of the model it was made from; an outage loses nothing but this.

    `settings` is the dataclass of what the registered model may be told beside the texts.
    """
    manifest = read_json(folder / "manifest.json")
    model = read_json(folder / "config.json")["model"]["name"]
    tracker = Tracker(config, manifest["made_from"], model)
    tracker.log_metrics(numbers_of(manifest))
    tracker.send()  # the registered version takes them from the run
    tracker.call("the registered model", lambda store: _register(store, folder, settings, manifest, model))
    tracker.close(seconds=SECONDS)


def numbers_of(manifest: dict[str, Any]) -> dict[str, float]:
    """Return an export's numbers as `export.*`."""
    parity = manifest["parity"]
    numbers = {
        "export.relative_error_per_call": parity["relative_error_per_call"],
        "export.different_ids": float(sum(row["different_ids"] for row in parity["samplers"])),
    }
    for precision, quality in manifest["quality"].items():
        numbers |= {f"export.{precision}.{key}": value for key, value in quality.items()}
    return numbers


def _register(store: Store, folder: Path, settings: type, manifest: dict[str, Any], model: str) -> None:
    from sunfish.export.registry import Version, register_version  # MLflow, in the tracker's thread alone

    params = {
        field.name: (TYPES[field.type.split(" ")[0]], field.default) for field in dataclasses.fields(settings)
    }
    size, licence = f"{manifest['parameters']:,} parameters", manifest["licence"]
    about = f"SunFish {model}, {size}; licence of the weights: {licence}."
    script = PACKAGE / "runtime" / "mlflow_model.py"
    register_version(store, Version(NAME, script, PACKAGE, folder, params, about))
