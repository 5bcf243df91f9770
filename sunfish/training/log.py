"""A run's log: JSON lines on disk are the truth, MLflow mirrors them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sunfish.files import read_lines, write_text
from sunfish.tracking import Tracker


class RunLog:
    """One line per logged step, those after the step that is resumed from dropped; one process writes."""

    def __init__(self, run_dir: Path, step: int, tracker: Tracker, writes: bool = True) -> None:
        paths = [run_dir / f"{name}.jsonl" for name in ("log", "samples", "events")]
        self.path, self.samples_path, self.events_path = paths
        self.tracker, self.writes = tracker, writes
        for path in paths if writes else ():
            kept = [line for line in read_lines(path) if line["step"] <= step]
            write_text(path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Log one step."""
        self._append(self.path, {"step": step, **values})
        self.tracker.log_metrics(values, step)

    def write_sample(self, step: int, text: str) -> None:
        """Log a text the model wrote."""
        self._append(self.samples_path, {"step": step, "text": text})
        self.tracker.log_artifacts(self.samples_path, "pretrain")

    def write_event(self, step: int, kind: str, loss: float, grad_norm: float) -> None:
        """Log a step that was `skipped` or a `spike`; its batch is that of `step` - 1, counted from 0."""
        event = {"step": step, "event": kind, "loss": repr(loss), "grad_norm": repr(grad_norm)}
        self._append(self.events_path, event)

    def lines(self) -> list[dict[str, Any]]:
        """Return all logged steps so far."""
        return read_lines(self.path)

    def samples(self) -> list[dict[str, Any]]:
        """Return all logged texts so far."""
        return read_lines(self.samples_path)

    def _append(self, path: Path, line: dict[str, Any]) -> None:
        if self.writes:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
