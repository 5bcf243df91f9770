"""RowDataset for training: how fast they are read beside how fast the tiny model trains, and how long 1,000
shards take to open.

python -m benchmarks.feeding data/shards [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.record import composed, interleave, recipe_of, record, spread
from sunfish.config.compose import compose
from sunfish.files import read_json, write_json
from sunfish.text.batches import Prefetcher, RowDataset
from sunfish.text.shards import Shards
from sunfish.text.tokenizer import write_tokenizer
from sunfish.training.parallel import flushing_denormals, make_fabric
from sunfish.training.train_step import start_run, train_step

NUM_SHARDS, SHARD_TOKENS, DOCUMENTS = (
    1_000,
    100_000_000,
    140_000,
)  # as FineWeb's would be: 700 tokens a document
STEPS = 20
OPEN = """
import json, sys, time
begun = time.perf_counter()
from pathlib import Path
from sunfish.config.compose import read_section
from sunfish.text.batches import Prefetcher, RowDataset
from sunfish.text.shards import Shards
imported = time.perf_counter()
folder = Path(sys.argv[1])
rows = RowDataset(Shards(folder), "train", read_section(folder / "params.yaml", "data"))
ids = Prefetcher(rows, rows.order(128, 0), slice(0, 128))._read(0)
print(json.dumps([imported - begun, time.perf_counter() - imported, len(rows), list(ids.shape)]))
"""


def open_many(shards: Shards, folder: Path, rounds: int) -> None:
    """Open 1,000 shards of 100 M tokens in a fresh process, up to the first batch; their files are holes of
    the right size.
    """
    manifest = read_json(shards.folder / "manifest.json")
    write_tokenizer(shards.tokenizer, folder)
    records = []
    for number in range(NUM_SHARDS):
        name = f"train-{number:05d}"
        for kind, size in (("bin", 2 * SHARD_TOKENS), ("idx", 8 * DOCUMENTS)):
            with (folder / f"{name}.{kind}").open("wb") as file:
                file.truncate(size)
        records.append(
            {
                "name": name,
                "tokens": SHARD_TOKENS,
                "documents": DOCUMENTS,
                "bytes": 1,
                "bin_sha256": "",
                "idx_sha256": "",
            }
        )
    manifest["splits"]["train"] |= {"tokens": NUM_SHARDS * SHARD_TOKENS, "shards": records}
    write_json(folder / "manifest.json", manifest)
    compose(["data=fineweb"], folder / "params.yaml")
    found = []
    for _ in range(rounds):
        begun = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", OPEN, str(folder)], capture_output=True, text=True, check=True
        )
        found.append((time.perf_counter() - begun, *json.loads(done.stdout)))
    process, imports, opening, num_rows, shape = zip(*found, strict=True)
    record(
        "feeding cold start",
        shards=NUM_SHARDS,
        tokens=NUM_SHARDS * SHARD_TOKENS,
        rows=num_rows[0],
        first_batch=shape[0],
        seconds_process=spread(list(process)),
        seconds_imports=spread(list(imports)),
        seconds_to_first_batch=spread(list(opening)),
    )


@flushing_denormals()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    shards = Shards(arguments.shards)
    for kind in ("documents", "stream"):
        params = composed("model=tiny", "data=stories", f"data.rows={kind}")
        section = params["pretrain"]
        run = start_run(make_fabric(params["launch"]), recipe_of(params), shards.vocab_size)
        rows = RowDataset(shards, "train", params["data"])
        prefetcher = Prefetcher(
            rows, rows.order(section.batch_rows, section.seed), slice(0, section.batch_rows)
        )
        sizes = [prefetcher._read(step).size for step in range(STEPS)]

        def read(prefetcher: Prefetcher = prefetcher) -> None:
            for step in range(STEPS):
                prefetcher._read(step)

        def train(prefetcher: Prefetcher = prefetcher, run=run) -> None:
            for step in range(STEPS):
                train_step(run, prefetcher._read(step))

        seconds = interleave(arguments.rounds, read=read, train=train)
        record(
            "feeding rate",
            model="tiny",
            rows=kind,
            tokens_per_second_read=spread([sum(sizes) / s for s in seconds["read"]], 0),
            tokens_per_second_trained=spread([sum(sizes) / s for s in seconds["train"]], 0),
            times_training=spread([t / r for t, r in zip(seconds["train"], seconds["read"], strict=True)], 1),
            positions_filled=round(rows.tokens_in_rows() / rows.num_positions(), 4),
            tokens_used=round(rows.tokens_in_rows() / shards.num_tokens("train"), 4),
        )
    with tempfile.TemporaryDirectory() as folder:
        open_many(shards, Path(folder), arguments.rounds)


if __name__ == "__main__":
    main()
