"""Sources -> a folder of shards: plan, tokenizer, tasks, duplicates, choice, shards, manifest."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sunfish.config.convert import ConfigError
from sunfish.config.schema.data import DataConfig
from sunfish.config.schema.launch import Sharding
from sunfish.files import replacing, require_writable
from sunfish.sharding.assemble import SourceAccount, choose, documents_within
from sunfish.sharding.columns import note_missing_columns
from sunfish.sharding.counts import merge_counts
from sunfish.sharding.duplicates import Duplicates
from sunfish.sharding.engine import Engine
from sunfish.sharding.pieces import is_whole, read_account
from sunfish.sharding.plan import Plan, make_plan, sources_in_order, write_tasks
from sunfish.sharding.sample import (
    Fidelity,
    measure_fidelity,
    require_fidelity,
    spans_by_source,
    training_sample,
)
from sunfish.sharding.steps import ReadDocuments, WritePiece, WriteShard
from sunfish.text import tokenizer as tokenizers
from sunfish.text.shards import read_record, token_dtype, write_manifest
from sunfish.text.tokenizer import Tokenizer

SMALL_TOKENS = 2**28  # copied in about a second


class Work:
    """The working folder of one plan: everything that is done stays here until the shards are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tasks = folder / "tasks.json"
        self.tokenizer = folder / "tokenizer"
        self.pieces = folder / "pieces"  # one a task
        self.choices = folder / "choices"  # which documents make which shard
        self.shards = folder / "shards"  # as they are finished
        for made in (self.pieces, self.choices, self.shards):
            made.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True)
class Result:
    """A finished folder of shards, and what is known about how it came about."""

    manifest: dict[str, Any]
    counts: dict[str, dict[str, Any]]  # of each source, for the look at the data
    work: Work
    pieces: dict[str, list[int]]  # of each source, those that counted
    fidelity: Fidelity  # of the tokenizer to a sample of the documents
    seconds: float


def shard(section: DataConfig, sharding: Sharding, out_dir: Path, runs: Path) -> Result:
    """Write the sources' documents as shards, or carry on where an interrupted run stopped.

    `out_dir` is replaced only when everything is written. The working folder, in `runs`, is the caller's to
    remove.

    Raises:
        UserError: whatever a person can mend; what is done stays done.
    """
    begun = time.monotonic()
    require_writable(out_dir)
    plan = make_plan(section)
    work = Work((runs / f"shard-{plan.fingerprint}").resolve())
    write_tasks(plan, work.tasks)
    for name, spans in spans_by_source(plan).items():
        note_missing_columns(name, section.sources[name], spans)
    tokenizer = _tokenizer(plan, work)
    if any(source.has_turns for source in section.sources.values()):
        tokenizer.chat_template = tokenizers.CHAT_TEMPLATE
    fidelity = measure_fidelity(tokenizer, plan)
    require_fidelity(fidelity, section.tokenizer)
    ranks, engine = sources_in_order(plan), Engine(work.folder / "logs", sharding)
    duplicates = Duplicates(section.duplicates, work.folder, plan.num_bytes())
    _write_pieces(plan, work, tokenizer, engine, duplicates)
    within = {name: documents_within(work.pieces, section.sources[name], of) for name, of in ranks.items()}
    duplicates.find(engine, {rank: count for counts in within.values() for rank, count in counts.items()})
    names, accounts = choose(work.pieces, section, within, duplicates.of_task, work.choices)
    _write_shards(work, names, tokenizer, engine, sum(account.tokens for account in accounts.values()))
    pieces = {name: account.pieces for name, account in accounts.items()}
    read = {name: [read_account(work.pieces, rank) for rank in of] for name, of in pieces.items()}
    sources = {name: _account(read[name], account) for name, account in accounts.items()}
    manifest = _gather(work, names, tokenizer, {"sources": sources, **_settings(section)}, out_dir)
    counts = {name: merge_counts([account["text"] for account in parts]) for name, parts in read.items()}
    return Result(manifest, counts, work, pieces, fidelity, time.monotonic() - begun)


def _tokenizer(plan: Plan, work: Work) -> Tokenizer:
    """Return the tokenizer: the working folder's, a pretrained one, or one trained on a sample."""
    if work.tokenizer.is_dir():
        return tokenizers.read_tokenizer(work.tokenizer)
    wanted = plan.section.tokenizer
    if wanted.pretrained is None:
        sample = training_sample(plan, wanted.train_documents)
        tokenizer = tokenizers.train_tokenizer(sample, wanted.vocab_size, wanted.unit)
    else:
        tokenizer = tokenizers.load_pretrained(wanted.pretrained)
        if tokenizer.vocab_size != wanted.vocab_size:
            raise ConfigError(
                f"params.yaml: data.tokenizer.vocab_size = {wanted.vocab_size}: {wanted.pretrained} has "
                f"{tokenizer.vocab_size} entries; set it so"
            )
    with replacing(work.tokenizer) as folder:
        folder.mkdir()
        tokenizers.write_tokenizer(tokenizer, folder)
    return tokenizer


def _write_pieces(
    plan: Plan, work: Work, tokenizer: Tokenizer, engine: Engine, duplicates: Duplicates
) -> None:
    done_before, vocab_size = engine.completed("tokenize"), tokenizer.vocab_size
    engine.forget("tokenize", [k for k in done_before if not is_whole(work.pieces, k, vocab_size)])
    reader = ReadDocuments(work.tasks, work.pieces, plan.section, sources_in_order(plan))
    writer = WritePiece(reader, work.tokenizer, plan.section.held_out_share)

    def done() -> int:
        paths = [*work.pieces.glob("*.bin"), *work.pieces.glob(".*.bin.*.tmp")]
        size = sum(path.stat().st_size for path in paths if path.exists())
        return size // token_dtype(vocab_size).itemsize

    engine.run("tokenize", [reader, writer, *duplicates.signatures()], len(plan.tasks), done, "tokens")


def _write_shards(
    work: Work, names: list[str], tokenizer: Tokenizer, engine: Engine, num_tokens: int
) -> None:
    writer = WriteShard(work.choices, work.pieces, work.shards, names, tokenizer.vocab_size)

    def done() -> int:
        return len(list(work.shards.glob("*.json")))

    engine.run("shards", [writer], len(names), done, "shards", small=num_tokens <= SMALL_TOKENS)


def _account(read: list[dict[str, Any]], account: SourceAccount) -> dict[str, Any]:
    """Return what became of a source's documents; tokens are counted of what the filters leave."""
    filtered: Counter[str] = sum((Counter(part["dropped"]) for part in read), Counter())
    later = {kind: count for kind, count in account.dropped.items() if count}
    return {
        "documents_in": sum(part["documents_in"] for part in read),
        "bytes_in": sum(part["bytes_in"] for part in read),
        "dropped": dict(filtered) | later,
        "dropped_tokens": {kind: account.dropped_tokens[kind] for kind in later},
        "documents": account.documents,
        "tokens": account.tokens,
        "bytes": account.bytes,
    }


def _settings(section: DataConfig) -> dict[str, Any]:
    """Return the settings that shape the shards; where documents were found changes nothing in them."""
    keys = ("held_out_share", "duplicates", "mixing_seed", "shard_tokens")
    return {key: getattr(section, key) for key in keys}


def _gather(
    work: Work, names: list[str], tokenizer: Tokenizer, about: dict[str, Any], out_dir: Path
) -> dict[str, Any]:
    """Move the finished shards to where they belong, all at once."""
    with replacing(out_dir) as folder:
        folder.mkdir()
        for name in names:
            for kind in ("bin", "idx"):
                _link(work.shards / f"{name}.{kind}", folder / f"{name}.{kind}")
        records = [read_record(work.shards, name) for name in names]
        return write_manifest(folder, records, tokenizer, about)


def _link(path: Path, target: Path) -> None:
    """Give a file a second name, or copy it where that cannot be: a kill in between must leave the first."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)
