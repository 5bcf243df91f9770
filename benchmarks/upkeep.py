"""What a training costs beside its steps: reading batches, and checkpoints.

python -m benchmarks.upkeep data/shards
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.record import composed, interleave, record, spread
from sunfish.text.batches import BatchOrder, Feed, Rows
from sunfish.text.shards import Shards
from sunfish.training.loop import save, start_run, train_step
from sunfish.training.parallel import make_fabric

ROUNDS, READS = 9, 50


def main() -> None:
    params, shards = composed(), Shards(Path(sys.argv[1]))
    section = params["pretrain"]
    run = start_run(make_fabric(params["launch"]), params["model"], params["diffusion"], section, shards.vocab_size)
    rows = Rows(shards, "train", params["data"])
    feed = Feed(rows, BatchOrder(rows.length, section.batch_rows, section.seed), slice(0, section.batch_rows))
    train_step(run, feed(0))

    def read() -> None:
        for step in range(READS):
            feed._read(step)

    with tempfile.TemporaryDirectory() as folder:
        seconds = interleave(ROUNDS, read=read, step=lambda: train_step(run, feed(run.step)), checkpoint=lambda: save(run, Path(folder)))
    reads, steps = ([value / per for value in seconds[name]] for name, per in (("read", READS), ("step", 1)))
    record(
        "upkeep", model="mini", read_share_of_step=spread([a / b for a, b in zip(reads, steps, strict=True)], 4),
        read_ms=spread([1e3 * s for s in reads]), checkpoint_ms=spread([1e3 * s for s in seconds["checkpoint"]], 1),
        checkpoint_share_at_one_a_minute=round(float(np.median(seconds["checkpoint"])) / 60, 5),
    )  # fmt: skip


if __name__ == "__main__":
    main()
