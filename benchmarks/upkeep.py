"""What a training costs beside its steps: reading batches, and checkpoints, written in between or beside the
steps.

python -m benchmarks.upkeep data/shards [--model mini] [--steps 40]      # steps: enough to last as long as a
checkpoint"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.record import composed, interleave, recipe_of, record, spread
from sunfish.text.batches import Prefetcher, RowDataset
from sunfish.text.shards import Shards
from sunfish.training.checkpoint import Checkpoints
from sunfish.training.loop import save
from sunfish.training.parallel import flushing_denormals, make_fabric
from sunfish.training.train_step import start_run, train_step

ROUNDS, READS = 9, 50


@flushing_denormals()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    params = composed(
        f"model={arguments.model}", "data=stories", "pretrain.batch_rows=32", "pretrain.micro_rows=32"
    )
    section, shards = params["pretrain"], Shards(arguments.shards)
    run = start_run(make_fabric(params["launch"]), recipe_of(params), shards.vocab_size)
    rows = RowDataset(shards, "train", params["data"])
    prefetcher = Prefetcher(rows, rows.order(section.batch_rows, section.seed), slice(0, section.batch_rows))
    train_step(run, prefetcher(0))

    def read() -> None:
        for step in range(READS):
            prefetcher._read(step)

    def steps(checkpoints: Checkpoints | None = None) -> None:
        if checkpoints:
            save(run, checkpoints)
        for _ in range(arguments.steps):
            train_step(run, prefetcher(run.step))
        if checkpoints:
            checkpoints.wait()

    with tempfile.TemporaryDirectory() as folder:
        between, beside = (
            Checkpoints(run.fabric, Path(folder) / name, 1, name == "beside")
            for name in ("between", "beside")
        )
        seconds = interleave(
            arguments.rounds,
            read=read,
            steps=steps,
            between=lambda: steps(between),
            beside=lambda: steps(beside),
        )
        size = sum(path.stat().st_size for path in Path(folder, "between").rglob("*.safetensors"))
    alone = seconds["steps"]
    stalls = {
        name: [1e3 * (s - a) for s, a in zip(seconds[name], alone, strict=True)]
        for name in ("between", "beside")
    }
    record(
        "upkeep",
        model=arguments.model,
        step_ms=spread([1e3 * s / arguments.steps for s in alone], 1),
        checkpoint_mib=round(size / 2**20),
        read_share_of_step=spread(
            [r / READS / (s / arguments.steps) for r, s in zip(seconds["read"], alone, strict=True)], 4
        ),
        **{f"stall_ms_{name}": spread(values, 1) for name, values in stalls.items()},
    )


if __name__ == "__main__":
    main()
