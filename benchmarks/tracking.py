"""What MLflow costs a training: processor seconds of all threads, with a local sqlite, with a server that is
not there, and without.

python -m benchmarks.tracking            # the log of 5,800 steps, a line every 20, sent every 20 seconds of a
five-minute run"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.record import record, spread
from sunfish.config.schema.tracking import TrackingConfig
from sunfish.tracking import Tracker

ROUNDS, LINES, LINES_PER_BATCH, RUN_SECONDS = 3, 290, 20, 300
NOWHERE = "http://127.0.0.1:9"
KEYS = ("loss", "grad_norm", "lr", "rows_per_second", "tokens_per_second", "share_of_peak", "memory_gib")


def log_a_run(uri: str | None) -> float:
    """Return the processor seconds that the log of a run takes, libraries loaded and all."""
    before = time.process_time()
    config = TrackingConfig(enabled=uri is not None, experiment="benchmark", uri=uri, loggers=("mlflow",))
    tracker = Tracker(config, {"fingerprint": "benchmark"})
    for line in range(LINES):
        tracker.log_metrics(dict.fromkeys(KEYS, 1.0), 20 * line)
        if tracker.enabled and line % LINES_PER_BATCH == 0:
            tracker.send()
    tracker.close()
    return time.process_time() - before


def main() -> None:
    uris = {"none": "", "sqlite": "sqlite:///mlflow.db", "outage": NOWHERE}
    seconds: dict[str, list[float]] = {name: [] for name in uris}
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    for _ in range(ROUNDS):
        for name, uri in uris.items():
            with tempfile.TemporaryDirectory() as folder:
                worker = [sys.executable, "-m", "benchmarks.tracking", "worker", uri]
                done = subprocess.run(
                    worker, check=True, cwd=folder, env=environment, capture_output=True, text=True
                )
            seconds[name].append(float(done.stdout.split()[-1]))
    record(
        "tracking",
        lines=LINES,
        processor_seconds={name: spread(values) for name, values in seconds.items()},
        share_of_five_minutes={
            name: spread([s / RUN_SECONDS for s in values], 5) for name, values in seconds.items()
        },
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        print(log_a_run(sys.argv[2] or None))
    else:
        main()
