"""Gaps filled by MLflow's server for many clients at once, on this machine.

python -m benchmarks.serving models/onnx
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import numpy as np

from benchmarks.record import record, spread
from sunfish.config.schema.tracking import TrackingConfig
from sunfish.export.register import register
from sunfish.runtime.settings import Settings

CLIENTS, REQUESTS = 50, 4  # requests of each client, one after another
SECONDS_TO_START, SECONDS_TO_ANSWER = 300, 120
TEXT = "once tom had a red kite . [MASK:6] . he never saw the kite again ."


@contextmanager
def server(folder: Path, place: Path) -> Iterator[str]:
    """Register an exported folder, serve it by one process, and yield where it answers."""
    uri = f"sqlite:///{place / 'mlflow.db'}"
    tracking = TrackingConfig(enabled=True, experiment="serving", uri=uri, loggers=("mlflow",))
    register(folder.resolve(), tracking, Settings)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["models", "serve", "--model-uri", "models:/sunfish@newest", "--env-manager", "local"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *command, "--workers", "1", "--port", str(port)],
        env=os.environ | {"MLFLOW_TRACKING_URI": uri}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{port}/ping")
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(process.pid, 15)
        process.wait()


def wait_for(url: str) -> None:
    until = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < until:
        try:
            urlopen(url, timeout=5).close()
            return
        except (URLError, OSError):
            time.sleep(0.5)
    raise SystemExit(f"{url} does not answer")


def ask(url: str) -> float:
    """Return the seconds that a request takes."""
    body = json.dumps({"inputs": [TEXT]}).encode()
    started = time.perf_counter()
    request = Request(url, body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=SECONDS_TO_ANSWER) as answer:
        (text,) = json.load(answer)["predictions"]
    assert text.startswith("once tom had a red kite .") and "[MASK" not in text, text
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as place, server(folder, Path(place)) as url:
        alone = [ask(url) for _ in range(5)][1:]
        begun = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as clients:
            jobs = [clients.submit(lambda: [ask(url) for _ in range(REQUESTS)]) for _ in range(CLIENTS)]
            seconds = [value for job in jobs for value in job.result()]
        rate = len(seconds) / (time.perf_counter() - begun)
    p50, p95 = (round(float(np.quantile(seconds, q)), 3) for q in (0.5, 0.95))
    record(
        "gaps served", clients=CLIENTS, requests=len(seconds), alone_seconds=spread(alone),
        p50_seconds=p50, p95_seconds=p95, per_second=round(rate, 1), cores=os.cpu_count(),
    )  # fmt: skip


if __name__ == "__main__":
    main()
