"""`tracking`: where metrics are mirrored to. Not a parameter of any stage."""

from __future__ import annotations

from dataclasses import dataclass

from sunfish.errors import require


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """MLflow: the experiment that runs are kept in, and the store of it.

    MLFLOW_TRACKING_URI in the environment comes before `uri`; no `uri` is sqlite in the project. Files of a
    sqlite store lie beside it, in mlartifacts/."""

    enabled: bool
    experiment: str
    uri: str | None

    def __post_init__(self) -> None:
        require(self.experiment.strip() != "", "experiment", "must be a name")
