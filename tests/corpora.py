"""Small corpora, and their shards."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

from sunfish.config.schema.data import DataConfig
from sunfish.config.schema.data import Tokenizer as TokenizerSection
from sunfish.config.schema.launch import Sharding, Slurm
from sunfish.config.schema.sources import Columns, Files, Source
from sunfish.sharding.shard import Result, shard
from sunfish.text.shards import Shards

HERE = Sharding(
    executor="local", workers=1, slurm=Slurm(partition="cpu", time="1:00", mem_per_cpu_gb=1, qos="normal")
)
GOOD = [f"the river runs past an old mill {i}" for i in range(60)]
COLUMNS = {
    "text_column": "text",
    "url_column": None,
    "filters": (),
    "unreadable": "fatal",
    "max_documents": None,
    "max_tokens": None,
    "weight": None,
}


def files(*paths: Path | str, separator: str | None = None, **changes: object) -> Files:
    return Files(kind="files", paths=tuple(map(str, paths)), separator=separator, **(COLUMNS | changes))


def with_sources(section: DataConfig, small_tasks: bool = True, **sources: Source) -> DataConfig:
    """The section with other sources; tasks of a few kilobytes, which no configuration file may ask for."""
    changed = dataclasses.replace(section, sources=sources)
    if small_tasks:
        object.__setattr__(changed, "task_bytes", 20_000)
    return changed


def with_changes(section: DataConfig, **changes: object) -> DataConfig:
    """The section with other values, and the same small tasks."""
    changed = dataclasses.replace(section, **{**changes, "task_bytes": 2**20})
    object.__setattr__(changed, "task_bytes", section.task_bytes)
    return changed


def run(section: DataConfig, folder: Path, sharding: Sharding = HERE) -> Result:
    result = shard(section, sharding, folder / "shards", folder / "runs")
    shutil.rmtree(result.work.folder)
    return result


def make_shards(params: dict, folder: Path) -> Result:
    """Shard the configuration's documents here, in this process."""
    sharding = dataclasses.replace(params["launch"].sharding, workers=1)
    result = shard(params["data"], sharding, folder, folder.parent / "runs")
    shutil.rmtree(result.work.folder)
    return result


def digest(folder: Path) -> str:
    return Shards(folder / "shards").digest()


def documents_of(folder: Path, *splits: str) -> list[str]:
    """Every document's text, decoded from the shards."""
    shards = Shards(folder / "shards")
    found = []
    for split in splits or ("train", "heldout"):
        for opened in shards.split(split):
            ends = opened.ends.astype(int)
            found += [
                shards.tokenizer.decode_row(opened.tokens[a:b].tolist())
                for a, b in zip([0, *ends[:-1]], ends, strict=True)
            ]
    return found


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text(
        "".join(json.dumps({"text": text, "n": i}) + "\n" for i, text in enumerate(texts)), encoding="utf-8"
    )
    return path


def real_section(real_data: Path, source: Columns) -> DataConfig:
    tokenizer = {
        "pretrained": str(real_data / "gpt2" / "tokenizer.json"),
        "unit": "pieces",
        "vocab_size": 50_257,
        "train_documents": 1,
        "max_unknown_share": 0.01,
        "max_altered_share": 0.1,
    }
    return DataConfig(
        sources={"files": source},
        mixing_seed=0,
        duplicates="keep",
        tokenizer=TokenizerSection(**tokenizer),
        rows="stream",
        row_length=128,
        row_multiple=8,
        held_out_share=0.02,
        shard_tokens=500_000,
        task_bytes=2**20,
    )
