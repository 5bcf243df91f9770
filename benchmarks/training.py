"""The training step against the machine's own matrix-product rate, in one run: one JSON line, appended to benchmarks/results.jsonl.

python -m benchmarks.training [--model mini] [--batch 32]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from sunfish.config import check, compose
from sunfish.training.cost import matmul_rate, step_operations
from sunfish.training.loop import start_run, train_step
from sunfish.training.parallel import make_fabric

ROUNDS, STEPS = 7, 8
VOCAB_SIZE, LENGTH = 567, 36  # of the stories: the words, and the usual row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--batch", type=int)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        batch = [f"pretrain.batch_rows={arguments.batch}", f"pretrain.micro_rows={arguments.batch}"] if arguments.batch else []
        compose([f"model={arguments.model}", *batch], path)
        params = check(path)
    vocab_size, length, rows = VOCAB_SIZE, LENGTH, params["pretrain"].batch_rows
    run = start_run(make_fabric(params["launch"]), params["model"], params["diffusion"], params["pretrain"], vocab_size)
    ids = np.random.default_rng(0).integers(vocab_size, size=(rows, length))
    rates, shares, seconds = [], [], []
    operations = step_operations(params["model"], vocab_size, rows, length, params["diffusion"].self_conditioning)
    for _ in range(ROUNDS):
        rates.append(matmul_rate())
        started = time.perf_counter()
        for _ in range(STEPS):
            train_step(run, ids)
        seconds.append((time.perf_counter() - started) / STEPS)
        rates.append(matmul_rate())
        shares.append(operations / seconds[-1] / statistics.mean(rates[-2:]))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    line = {
        "what": "training step", "model": arguments.model, "rows": rows, "length": length, "commit": commit,
        "date": time.strftime("%Y-%m-%d"),
        "threads": torch.get_num_threads(), "precision": run.fabric._precision.precision,
        "step_seconds": round(statistics.median(seconds), 5),
        "operations_per_step": operations, "matmul_rate_gflops": round(statistics.median(rates) / 1e9, 1),
        "share_of_matmul_rate": round(statistics.median(shares), 3),
        "share_min_max": [round(min(shares), 3), round(max(shares), 3)],
    }  # fmt: skip
    print(json.dumps(line))
    with (Path(__file__).parent / "results.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
