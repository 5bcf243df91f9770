"""One process of one thread against two, DDP and FSDP2 by gloo, each training by the stage itself, in turn.

python -m benchmarks.scaling data/shards [--model mini] [--steps 120]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.record import record, spread
from sunfish.config.compose import compose

ROUNDS = 3
VARIANTS = {"one": (1, "single"), "ddp": (2, "ddp"), "fsdp": (2, "fsdp")}


def tokens_per_second(model: str, shards: Path, steps: int, processes: int, strategy: str) -> float:
    """Return the median over the logged stretches of a training of 32 rows a process."""
    rows = [f"pretrain.batch_rows={32 * processes}", "pretrain.micro_rows=32"]
    often = [
        f"pretrain.steps={steps}",
        f"pretrain.log_every={max(steps // 6, 1)}",
        "pretrain.optim.warmup_steps=2",
    ]
    launch = [
        f"launch.devices={processes}",
        f"launch.strategy={strategy}",
        "launch.num_threads=1",
        "tracking=off",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compose([f"model={model}", "data=stories", *rows, *often, *launch], folder / "params.yaml")
        places = {
            "params": "params.yaml",
            "out": "denoiser",
            "metrics": "metrics.json",
            "curve": "curve.csv",
            "runs": "runs",
        }
        named = [part for key, place in places.items() for part in (f"--{key}", str(folder / place))]
        stage = [sys.executable, "-m", "stages.pretrain", "--shards", str(shards), *named]
        subprocess.run(stage, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return float(json.loads((folder / "metrics.json").read_text())["tokens_per_second"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--steps", type=int, default=120)
    arguments = parser.parse_args()
    rates: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(ROUNDS):
        for name, (processes, strategy) in VARIANTS.items():
            rates[name].append(
                tokens_per_second(arguments.model, arguments.shards, arguments.steps, processes, strategy)
            )
    record(
        "scaling from one process to two, a thread each",
        model=arguments.model,
        rows_per_process=32,
        **{f"tokens_per_second_{name}": spread(values, 0) for name, values in rates.items()},
        **{
            f"times_one_{name}": spread([b / a for a, b in zip(rates["one"], rates[name], strict=True)])
            for name in ("ddp", "fsdp")
        },
    )


if __name__ == "__main__":
    main()
