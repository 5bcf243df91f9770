"""`tracking`: where metrics are mirrored to. Not a parameter of any stage."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from sunfish.errors import require

# name -> the packages of which it needs one, beside those that a training needs
LOGGERS: dict[str, tuple[str, ...]] = {
    "mlflow": (), "csv": (), "tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Who is told of a run: MLflow, and loggers that Lightning Fabric knows.

    MLflow keeps runs in an `experiment` of the store at `uri`.

    MLFLOW_TRACKING_URI in the environment comes before `uri`; no `uri` is sqlite in the project. Files of a
    sqlite store lie beside it, in mlartifacts/."""

    enabled: bool
    experiment: str
    uri: str | None
    loggers: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in self.loggers:
            require(name in LOGGERS, "loggers", f"holds {name!r}: must be of {', '.join(LOGGERS)}")
            wants = LOGGERS[name]
            is_there = not wants or any(find_spec(package) for package in wants)
            require(is_there, "loggers", f"names {name}, which is not installed: pip install {name}")
        require(self.experiment.strip() != "", "experiment", "must be a name")
