"""The same configuration makes the same bytes, whoever works and whatever interrupts."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from sunfish.config.schema.data import DataConfig
from sunfish.errors import UserError
from sunfish.sharding import steps
from sunfish.sharding.plan import make_plan
from sunfish.sharding.shard import shard
from tests.corpora import (
    HERE,
    digest,
    documents_of,
    files,
    real_section,
    run,
    with_changes,
    with_sources,
    write_jsonl,
)


def test_workers_and_tasks_have_no_say_in_the_bytes(
    section: DataConfig, texts: list[str], tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    changed = with_sources(section, files=files(path, max_tokens=12_000))
    for workers in (1, 2, 4, 16):
        run(changed, tmp_path / str(workers), dataclasses.replace(HERE, workers=workers))
    run(dataclasses.replace(changed, task_bytes=2**20), tmp_path / "one")
    digests = {name: digest(tmp_path / name) for name in ("1", "2", "4", "16")}
    assert len(set(digests.values())) == 1
    assert documents_of(tmp_path / "one") == documents_of(tmp_path / "1")


@pytest.mark.parametrize("duplicates", ["keep", "drop_exact", "drop_near"])
def test_what_stands_behind_a_limit_has_no_say_whether_it_was_read_or_not(
    section: DataConfig, texts: list[str], tmp_path: Path, duplicates: str
) -> None:
    """The limit ends with a piece; behind it stand doubles of what another source has, and of what is
    kept.
    """
    first, others = (
        write_jsonl(tmp_path / "a.jsonl", texts[:90]),
        write_jsonl(tmp_path / "c.jsonl", texts[100:300]),
    )
    assert first.stat().st_size < 20_000
    behind = write_jsonl(tmp_path / "b.jsonl", [*texts[100:300], *texts[:90]])
    limited = with_sources(section, a=files(first, behind, max_documents=90), c=files(others))
    found = set()
    for workers in (1, 4):
        result = run(
            with_changes(limited, duplicates=duplicates),
            tmp_path / str(workers),
            dataclasses.replace(HERE, workers=workers),
        )
        found.add(digest(tmp_path / str(workers)))
        assert result.manifest["sources"]["a"]["documents_in"] == 90
        assert sorted(documents_of(tmp_path / str(workers))) == sorted([*texts[:90], *texts[100:300]])
    assert len(found) == 1


def test_what_is_done_is_not_done_again(
    section: DataConfig, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    changed = with_sources(section, files=files(path))
    tasks = len(make_plan(changed).tasks)
    done, write_account = [], steps.write_account

    def fail_at_third(folder: Path, rank: int, *rest: object) -> None:
        if len(done) == 2:
            raise UserError("the lights went out")
        done.append(rank)
        write_account(folder, rank, *rest)

    monkeypatch.setattr(steps, "write_account", fail_at_third)
    with pytest.raises(UserError, match="the lights went out"):
        run(changed, tmp_path)
    assert not (tmp_path / "shards").exists()
    again: list[int] = []
    monkeypatch.setattr(
        steps,
        "write_account",
        lambda folder, rank, *rest: (again.append(rank), write_account(folder, rank, *rest)),
    )
    run(changed, tmp_path)
    assert done == [0, 1] and again == list(range(2, tasks))
    run(changed, tmp_path / "whole")
    assert digest(tmp_path) == digest(tmp_path / "whole")


def test_a_piece_that_was_lost_is_made_again(section: DataConfig, texts: list[str], tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    changed = with_sources(section, files=files(path))
    result = shard(changed, HERE, tmp_path / "shards", tmp_path / "runs")
    first = digest(tmp_path)
    piece = result.work.pieces / "00001.bin"
    piece.write_bytes(piece.read_bytes()[:-2])
    shutil.rmtree(result.work.folder / "logs" / "shards")
    run(changed, tmp_path)
    assert digest(tmp_path) == first


@pytest.mark.slow
def test_real_documents_are_the_same_by_two_workers(
    real_data: Path, real_digest: str, tmp_path: Path
) -> None:
    source = files(real_data / "fineweb" / "*.parquet")
    run(real_section(real_data, source), tmp_path, dataclasses.replace(HERE, workers=2))
    assert digest(tmp_path) == real_digest
    assert len(documents_of(tmp_path)) == 2100
