"""A run's log: JSON lines on disk are the truth, MLflow mirrors them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sunfish.files import write_text
from sunfish.tracking import Tracker


class RunLog:
    """Append a line per logged step; on resuming, drop the lines after the step that is resumed from."""

    def __init__(self, run_dir: Path, step: int, tracker: Tracker) -> None:
        self.path, self.samples_path, self.tracker = run_dir / "log.jsonl", run_dir / "samples.jsonl", tracker
        for path in (self.path, self.samples_path):
            kept = [line for line in read_lines(path) if line["step"] <= step]
            write_text(path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, step: int, loss: float, grad_norm: float, lr: float, rows_per_second: float) -> None:
        """Log one step."""
        values = {"loss": loss, "grad_norm": grad_norm, "lr": lr, "rows_per_second": rows_per_second}
        self._append(self.path, {"step": step, **values})
        self.tracker.log_metrics(values, step)

    def write_sample(self, step: int, text: str) -> None:
        """Log a text the model wrote."""
        self._append(self.samples_path, {"step": step, "text": text})

    def lines(self) -> list[dict[str, Any]]:
        """Return all logged steps so far."""
        return read_lines(self.path)

    def samples(self) -> list[dict[str, Any]]:
        """Return all logged texts so far."""
        return read_lines(self.samples_path)

    def _append(self, path: Path, line: dict[str, Any]) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return a JSONL file's records; a last line cut off by a kill is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
