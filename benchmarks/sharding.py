"""Documents to shards: tokens per second of a core beside datatrove's DocumentTokenizer and datasets.map, two
workers beside one, memory.

python -m benchmarks.sharding rates PARQUET... --tokenizer tokenizer.json [--repeat 3] [--rounds 5]
python -m benchmarks.sharding workers PARQUET... --tokenizer tokenizer.json [--repeat 8] [--rounds 3]
python -m benchmarks.sharding memory PARQUET... --tokenizer tokenizer.json [--gigabytes 10]

Every run is a process of its own, one after another in turn; its clock starts when everything is imported.
For a rate it is bound to one core. Inputs are the given files, repeated."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.record import composed, record, spread

KEPT_OF = 8  # for memory: of so many documents one is tokenized, since ten gigabytes take half an hour
SECONDS_BETWEEN_LOOKS = 0.2
ONE_CORE = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
ONE_CORE |= {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}


def sunfish(paths: list[str], tokenizer: str, out: Path, workers: int, **changes: str) -> int:
    """The shard stage's work: hashes, split, account and counts included; return the tokens."""
    from sunfish.sharding.shard import shard

    settings = [f"data.sources.files.{key}={value}" for key, value in changes.items()]
    params = composed(
        "data=files", f"data.sources.files.paths=[{','.join(paths)}]",
        f"data.tokenizer.pretrained={tokenizer}", "data.tokenizer.vocab_size=50257",
        f"launch.sharding.workers={workers}", f"data.task_bytes={task_bytes(paths, workers)}", *settings,
    )  # fmt: skip
    begin()
    manifest = shard(params["data"], params["launch"].sharding, out / "shards", out / "runs").manifest
    return sum(split["tokens"] for split in manifest["splits"].values())


def task_bytes(paths: list[str], workers: int) -> int:
    """Return the default, or less where that would be one task for several workers."""
    size = sum(Path(path).stat().st_size for path in paths)
    return min(268_435_456, max(2**20, size // (1 if workers == 1 else 32)))


def document_tokenizer(paths: list[str], tokenizer: str, out: Path, workers: int) -> int:
    """datatrove's own: parquet, tokenizer, documents shuffled within a file, as it does unless told
    otherwise.
    """
    import numpy as np
    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.tokens import DocumentTokenizer
    from loguru import logger

    logger.disable("datatrove")
    folder = str(Path(paths[0]).parent)
    steps = [
        ParquetReader(folder, glob_pattern="*.parquet", read_metadata=False),
        DocumentTokenizer(str(out / "tokens"), tokenizer, eos_token="<|endoftext|>"),
    ]
    begin()
    LocalPipelineExecutor(steps, tasks=workers, workers=workers, logging_dir=str(out / "logs")).run()
    return sum(int(np.fromfile(path, "<u8")[-1]) for path in (out / "tokens").glob("*.index"))


def datasets_map(paths: list[str], tokenizer: str, out: Path, workers: int) -> int:
    """datasets.map, batched, without attention masks; an end token behind each document."""
    import datasets
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_file=tokenizer)
    end = fast.convert_tokens_to_ids("<|endoftext|>")
    where = {"data_files": paths, "split": "train", "cache_dir": str(out / "cache")}
    data = datasets.load_dataset("parquet", **where).select_columns("text")

    def encode(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        ids = fast(batch["text"], return_attention_mask=False)["input_ids"]
        return {"ids": [[*row, end] for row in ids], "length": [len(row) + 1 for row in ids]}

    begin()
    done = data.map(encode, batched=True, remove_columns=["text"], num_proc=workers if workers > 1 else None)
    return int(sum(done["length"]))


VARIANTS: dict[str, Callable[..., int]] = {f.__name__: f for f in (sunfish, document_tokenizer, datasets_map)}
_begun = 0.0


def begin() -> None:
    """Start the clock: what is imported and set up before is not timed."""
    global _begun
    _begun = time.perf_counter()


def measure(
    variant: str, paths: list[str], tokenizer: str, workers: int, cores: int, **changes: str
) -> dict[str, float]:
    """Run one variant in a process of its own; return tokens, seconds, and the peak memory of it and of its
    largest child in MiB.
    """
    with tempfile.TemporaryDirectory() as folder:
        call = json.dumps([variant, paths, tokenizer, folder, workers, changes])
        env = os.environ | ONE_CORE
        bound = ["taskset", "-c", ",".join(map(str, sorted(os.sched_getaffinity(0))[:cores]))]
        command = [*bound, sys.executable, "-m", "benchmarks.sharding", "one", call]
        silent = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, env=env, **silent)
        peaks: dict[int, float] = {}
        over = threading.Event()
        watcher = threading.Thread(target=watch_memory, args=(process.pid, peaks, over), daemon=True)
        watcher.start()
        output = process.communicate()[0]
        over.set()
        if process.returncode:
            raise SystemExit(f"{variant}: exit code {process.returncode}")
        tokens, seconds = json.loads(output.splitlines()[-1])
    return {"tokens": tokens, "seconds": seconds, "rate": tokens / seconds, "peak_mib": max(peaks.values())}


def watch_memory(pid: int, peaks: dict[int, float], over: threading.Event) -> None:
    """Keep the high-water mark of a process and all its descendants."""
    import psutil

    while not over.wait(SECONDS_BETWEEN_LOOKS):
        try:
            family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for member in family:
            status = Path(f"/proc/{member.pid}/status")
            found = re.search(r"VmHWM:\s+(\d+)", status.read_text()) if status.exists() else None
            if found:
                peaks[member.pid] = int(found[1]) / 1024


def repeated(paths: list[Path], repeat: int, folder: Path) -> list[str]:
    """Return the files, so many times over, under names of their own."""
    for number in range(repeat):
        for path in paths:
            shutil.copy(path, folder / f"{number:03d}_{path.name}")  # a link is another name, read once
    return [str(path) for path in sorted(folder.glob("*.parquet"))]


def rates(arguments: argparse.Namespace) -> None:
    """One core: ours beside theirs."""
    with tempfile.TemporaryDirectory() as folder:
        paths = repeated(arguments.paths, arguments.repeat or 3, Path(folder))
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
        for _ in range(arguments.rounds or 5):
            for name in VARIANTS:
                runs[name].append(measure(name, paths, arguments.tokenizer, 1, 1))
    ours = [run["rate"] for run in runs["sunfish"]]
    record(
        "sharding rates", input="parquet", tokens=int(runs["sunfish"][0]["tokens"]), rounds=len(ours),
        **{f"tokens_per_second_{name}": spread([run["rate"] for run in of], 0) for name, of in runs.items()},
        **{
            f"times_{name}": spread([a / b["rate"] for a, b in zip(ours, runs[name], strict=True)])
            for name in list(VARIANTS)[1:]
        },
        **{f"peak_mib_{name}": round(max(run["peak_mib"] for run in of)) for name, of in runs.items()},
    )  # fmt: skip


def workers(arguments: argparse.Namespace) -> None:
    """Two workers beside one, each on a core of its own."""
    with tempfile.TemporaryDirectory() as folder:
        paths = repeated(arguments.paths, arguments.repeat or 8, Path(folder))
        pairs = [
            [measure("sunfish", paths, arguments.tokenizer, n, n) for n in (1, 2)]
            for _ in range(arguments.rounds or 3)
        ]
    record(
        "sharding workers", tokens=int(pairs[0][0]["tokens"]), rounds=len(pairs),
        seconds_one=spread([one["seconds"] for one, _ in pairs], 1),
        seconds_two=spread([two["seconds"] for _, two in pairs], 1),
        times_one=spread([one["seconds"] / two["seconds"] for one, two in pairs]),
    )  # fmt: skip


def memory(arguments: argparse.Namespace) -> None:
    """A large input by two workers, and as one file that cannot be divided; all of it is read, one document
    in eight is tokenized.
    """
    import pyarrow.parquet as pq
    import zstandard

    tables = (pq.read_table(path, columns=["text"]) for path in arguments.paths)
    texts = [text for table in tables for text in table["text"].to_pylist()]
    records = ({"text": text, "turn": str(i % KEPT_OF)} for i, text in enumerate(texts))
    lines = "".join(json.dumps(each) + "\n" for each in records).encode()
    times = -(-arguments.gigabytes * 10**9 // len(lines))
    rule = "[{kind: values, column: turn, values: ['0']}]"
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = Path(folder) / "a.jsonl", Path(folder) / "a.jsonl.zst"
        with (
            plain.open("wb") as file,
            packed.open("wb") as target,
            zstandard.ZstdCompressor(1).stream_writer(target) as writer,
        ):
            for _ in range(times):
                file.write(lines)
                writer.write(lines)
        for name, path, num in (("divided", plain, 2), ("one_task", packed, 1)):
            found = measure("sunfish", [str(path)], arguments.tokenizer, num, num, filters=rule)
            record(
                "sharding memory", input=name, input_gb=round(times * len(lines) / 1e9, 1), workers=num,
                tokens=int(found["tokens"]), seconds=round(found["seconds"]),
                peak_mib_of_a_process=round(found["peak_mib"]),
            )  # fmt: skip
            path.unlink()


def one(call: str) -> None:
    variant, paths, tokenizer, folder, num, changes = json.loads(call)
    tokens = VARIANTS[variant](paths, tokenizer, Path(folder), num, **changes)
    print(json.dumps([tokens, time.perf_counter() - _begun]))
    shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("what", choices=("rates", "workers", "memory", "one"))
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--tokenizer", help="path of GPT-2's tokenizer.json")
    parser.add_argument("--repeat", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--gigabytes", type=int, default=10)
    arguments = parser.parse_args()
    if arguments.what == "one":
        return one(arguments.paths[0])
    arguments.paths = [Path(path) for path in arguments.paths]
    {"rates": rates, "workers": workers, "memory": memory}[arguments.what](arguments)
    return None


if __name__ == "__main__":
    main()
