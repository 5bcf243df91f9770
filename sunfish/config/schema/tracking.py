"""`tracking`: where metrics are mirrored to. Not a parameter of any stage."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """MLflow; MLFLOW_TRACKING_URI in the environment comes before `uri`, an empty `uri` is sqlite in the
    project.
    """

    enabled: bool
    experiment: str
    uri: str | None
