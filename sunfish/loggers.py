"""Loggers of Lightning Fabric beside MLflow: one entry of `LOGGERS` each, never able to stop a training.

They write the configuration and the metrics of a training into its folder in runs/, a version a start."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sunfish.config.schema.tracking import TrackingConfig


def _csv(folder: Path, config: TrackingConfig) -> Any:
    from lightning.fabric.loggers import CSVLogger  # only where it is asked for

    return CSVLogger(folder, name="csv", flush_logs_every_n_steps=1)


def _tensorboard(folder: Path, config: TrackingConfig) -> Any:
    from lightning.fabric.loggers import TensorBoardLogger

    return TensorBoardLogger(folder, name="tensorboard")


def _wandb(folder: Path, config: TrackingConfig) -> Any:
    from lightning.pytorch.loggers import WandbLogger

    class OneRun(WandbLogger):
        """Ends its run with the training, and not with the process."""

        def finalize(self, status: str) -> None:
            super().finalize(status)
            self.experiment.finish(exit_code=int(status != "success"))

    folder.mkdir(parents=True, exist_ok=True)
    return OneRun(project=config.experiment, name=folder.name, id=folder.name, save_dir=folder)


LOGGERS: dict[str, Callable[[Path, TrackingConfig], Any]] = {
    "csv": _csv, "tensorboard": _tensorboard, "wandb": _wandb,
}  # fmt: skip


class Loggers:
    """Those that `tracking.loggers` names beside MLflow; one that fails is said and left out."""

    def __init__(self, config: TrackingConfig, folder: Path | None) -> None:
        self.loggers: dict[str, Any] = {}
        for name in config.loggers if config.enabled and folder is not None else ():
            if name in LOGGERS:
                self._try(name, self._start, name, folder, config)

    def call(self, method: str, *values: Any) -> None:
        """Call a method of Lightning's `Logger` on each; one that has no such method goes without it."""
        for name, logger in list(self.loggers.items()):
            self._try(name, getattr(logger, method), *values)

    def _start(self, name: str, folder: Path, config: TrackingConfig) -> None:
        self.loggers[name] = LOGGERS[name](folder, config)

    def _try(self, name: str, job: Callable[..., Any], *values: Any) -> None:
        try:
            job(*values)
        except NotImplementedError:
            pass
        except Exception as error:  # whatever it is, training goes on
            self.loggers.pop(name, None)
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            print(f"tracking: {name} fails ({reason}) and is left out; the run goes on", file=sys.stderr)
