from __future__ import annotations

import dataclasses
import gzip
import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers
import zstandard
from datatrove.pipeline.base import PipelineStep
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from sunfish.config import ConfigError, check, compose
from sunfish.problems import Problem
from sunfish.sections.data import Columns, Files, Hub, Length, Pattern, Range, Section, Stories, Values
from sunfish.sections.data import Tokenizer as TokenizerSection
from sunfish.sections.launch import Sharding, Slurm
from sunfish.sharding import encoder as encoders
from sunfish.sharding import readers, remote, steps
from sunfish.sharding.encoder import Encoder
from sunfish.sharding.engine import Engine
from sunfish.sharding.plan import Plan, make_plan
from sunfish.sharding.readers import Record, Span, read_span
from sunfish.sharding.shard import Result, shard
from sunfish.text.hub import go_offline_if_unreachable
from sunfish.text.shards import Shards
from sunfish.text.tokenizer import Tokenizer, load_pretrained, train_tokenizer
from tests.misbehaving import DATASET, REVISION, serving

HERE = Sharding(executor="local", workers=1, slurm=Slurm(partition="cpu", time="1:00", mem_per_cpu_gb=1, qos="normal"))
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


@pytest.fixture(scope="session")
def section(params: dict) -> Section:
    """A small vocabulary of pieces, shards and tasks that are small too."""
    tokenizer = dataclasses.replace(params["data"].tokenizer, unit="pieces", vocab_size=400, train_documents=200)
    return dataclasses.replace(params["data"], tokenizer=tokenizer, shard_tokens=30_000, held_out_share=0.2)


def with_sources(section: Section, small_tasks: bool = True, **sources: Columns | Stories) -> Section:
    """The section with other sources; tasks of a few kilobytes, which no configuration file may ask for."""
    changed = dataclasses.replace(section, sources=sources)
    if small_tasks:
        object.__setattr__(changed, "task_bytes", 20_000)
    return changed


def run(section: Section, folder: Path, sharding: Sharding = HERE) -> Result:
    result = shard(section, sharding, folder / "shards", folder / "runs")
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
            found += [shards.tokenizer.decode_row(opened.tokens[a:b].tolist()) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    return found


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text, "n": i}) + "\n" for i, text in enumerate(texts)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def texts() -> list[str]:
    rng = random.Random(0)
    words = ["the", "sea", "größer", "三", "a", "was", "blue", "old", "under", "light"]
    return [" ".join(rng.choices(words, k=rng.randint(3, 60))) + f" {i}" for i in range(600)]


# ---- what is read ----


def test_every_kind_of_file_holds_the_same_documents(section: Section, texts: list[str], tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    lines = write_jsonl(source / "a.jsonl", texts).read_bytes()
    pq.write_table(pa.table({"text": texts}), source / "a.parquet", row_group_size=50)
    (source / "a.jsonl.zst").write_bytes(zstandard.compress(lines[:5000]) + zstandard.compress(lines[5000:]))
    (source / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    (source / "a.txt").write_text("<|end|>".join(texts), encoding="utf-8")
    (source / "a.txt.zst").write_bytes(zstandard.compress((source / "a.txt").read_bytes()))
    found = set()
    for path in sorted(source.iterdir()):
        run(with_sources(section, files=files(path, separator="<|end|>")), tmp_path / path.name)
        assert sorted(documents_of(tmp_path / path.name)) == sorted(texts), path.name
        found.add(digest(tmp_path / path.name))
    assert len(found) == 1


@settings(max_examples=25)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=30), st.integers(1, 400))
def test_spans_partition_the_lines_wherever_they_are_cut(tmp_path_factory: pytest.TempPathFactory, lines: list[str], step: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": line}, ensure_ascii=False) for line in lines), encoding="utf-8")
    size = path.stat().st_size
    cuts = [*range(0, size, step), size]
    source = files(path)
    spans = [Span(str(path), size, a, b) for a, b in zip(cuts, cuts[1:], strict=False)]
    records = [record for span in spans for record in read_span(source, span, [])]
    assert [record.text for record in records if isinstance(record, Record)] == lines


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.parquet", b"no parquet at all", "is not a readable parquet file"),
        ("a.jsonl", b'{"text": "good"}\n{"text": "cut', "a.jsonl, line 2: is not JSON"),
        ("a.jsonl", b'{"text": "\xff"}\n', "line 1: is not UTF-8"),
        ("a.jsonl", b'{"words": "x"}\n', "line 1: has no text under 'text'; there are words"),
        ("a.jsonl", b'{"text": 3}\n', "line 1: has no text under 'text'"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "half a surrogate pair"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "good"}\n' * 9999)[:-40], "it may be cut off"),
        ("a.txt", b"abc\xff", "is not UTF-8 text (invalid start byte at byte 3)"),
    ],
)
def test_what_cannot_be_read_is_named_or_skipped_and_counted(
    section: Section, tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    write_jsonl(tmp_path / "b.jsonl", [f"good {i}" for i in range(50)])
    with pytest.raises(Problem) as problem:
        run(with_sources(section, files=files(tmp_path / name, tmp_path / "b.jsonl")), tmp_path / "out")
    assert says in str(problem.value) and name in str(problem.value) and "unreadable: skip" in str(problem.value)
    assert not (tmp_path / "out" / "shards").exists()
    result = run(with_sources(section, files=files(tmp_path / name, tmp_path / "b.jsonl", unreadable="skip")), tmp_path / "out")
    account = result.manifest["sources"]["files"]
    assert account["dropped"]["unreadable"] == 1 and account["documents"] >= 50
    assert account["documents_in"] == account["documents"] + sum(account["dropped"].values())


def test_the_line_is_named_where_a_span_begins_in_the_middle(section: Section, texts: list[str], tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:500], b'{"text": "cut\n', *lines[500:]]))
    assert path.stat().st_size > 80_000  # four tasks
    with pytest.raises(Problem, match=r"a.jsonl, line 501: is not JSON"):
        run(with_sources(section, files=files(path)), tmp_path)


def test_a_line_that_is_too_long_is_left_out_and_nothing_is_read_twice(
    section: Section, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "MAX_RECORD_BYTES", 10_000)
    path = write_jsonl(tmp_path / "a.jsonl", [*texts[:100], "long " * 20_000, *texts[100:]])
    changed = with_sources(section, files=files(path, unreadable="skip"))
    assert len(make_plan(changed).tasks) > 5
    result = run(changed, tmp_path)
    assert sorted(documents_of(tmp_path)) == sorted(texts) and result.manifest["sources"]["files"]["dropped"] == {"unreadable": 1}


def test_a_corrupt_page_costs_its_rows_and_is_named(section: Section, tmp_path: Path, real_data: Path) -> None:
    data = bytearray((real_data / "fineweb" / "000_00000.parquet").read_bytes())
    where = pq.ParquetFile(real_data / "fineweb" / "000_00000.parquet").metadata.row_group(1).column(0)
    begin = where.data_page_offset + where.total_compressed_size // 2
    data[begin : begin + 2000] = bytes(2000)
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(Problem, match=r"a.parquet: rows \d+ to \d+ cannot be read"):
        run(with_sources(section, files=files(tmp_path / "a.parquet")), tmp_path)
    result = run(with_sources(section, files=files(tmp_path / "a.parquet", unreadable="skip")), tmp_path)
    account = result.manifest["sources"]["files"]
    assert account["dropped"]["unreadable"] > 0 and account["documents"] + account["dropped"]["unreadable"] == 700


def test_a_missing_column_and_mixed_schemas_are_named_with_what_is_there(section: Section, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["fine"] * 30}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"body": ["x"], "id": [1]}), tmp_path / "b.parquet")
    with pytest.raises(Problem, match=r"b.parquet: has no column 'text'.*text_column to one of: body, id"):
        run(with_sources(section, files=files(tmp_path / "*.parquet")), tmp_path)
    pq.write_table(pa.table({"text": [1]}), tmp_path / "b.parquet")
    with pytest.raises(Problem, match=r"b.parquet: column 'text' holds int64, not text"):
        run(with_sources(section, files=files(tmp_path / "*.parquet")), tmp_path)
    with pytest.raises(Problem, match=r"has no column 'language'; set the source's filters"):
        rule = Values(kind="values", column="language", values=("en",))
        run(with_sources(section, files=files(tmp_path / "a.parquet", filters=(rule,))), tmp_path)


def test_odd_texts_are_kept_as_they_are(section: Section, tmp_path: Path) -> None:
    odd = ["a\x00b", "\u200b zero", "\ufffd", "tab\there\r\n", "<|endoftext|> in the text", "e\u0301", "\U0001f600" * 50]
    pq.write_table(pa.table({"text": [*odd, None, "", "  \n", *(f"filling {i}" for i in range(60))]}), tmp_path / "a.parquet")
    result = run(with_sources(section, files=files(tmp_path / "a.parquet")), tmp_path)
    assert set(odd) <= set(documents_of(tmp_path))
    assert result.manifest["sources"]["files"]["dropped"] == {"empty": 3}


def test_no_such_file_or_kind_is_said(section: Section, tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"data.sources.files.paths: nothing matches"):
        make_plan(with_sources(section, files=files(tmp_path / "*.txt")))
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(Problem, match=r"a.csv: this kind of file is not known; there are .parquet"):
        make_plan(with_sources(section, files=files(tmp_path / "a.csv")))


# ---- ids ----

WORDS = ["ab cé 三 11 a. b' c ab ab it's we'll  x\n\n y\t", "the cat sat on the mat, the hat; 1234 12 \u00e9\u0301"] * 3


@pytest.fixture(scope="module", params=["pieces", "words", "gpt2"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    if request.param == "gpt2":
        real_data = request.getfixturevalue("real_data")
        return Encoder(load_pretrained(str(real_data / "gpt2" / "tokenizer.json")))
    return Encoder(train_tokenizer(WORDS, 320, request.param))


@settings(max_examples=60)
@given(text=st.one_of(st.text(max_size=200), st.text(st.sampled_from("ab cé三1 .'\n\t"), max_size=200)), long=st.integers(1, 20))
def test_a_corpus_has_the_tokenizer_s_ids_in_parts_or_not(encoder: Encoder, text: str, long: int) -> None:
    expected = [*encoder.tokenizer.encode(text), encoder.tokenizer.end_id]
    assert next(encoder.encode([text])).tolist() == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "LONG_CHARACTERS", long)
        assert "".join(encoder.split_long(text)) == text
        assert next(encoder.encode([text])).tolist() == expected


def test_the_fast_way_is_taken_where_it_is_the_same(encoder: Encoder) -> None:
    has_merges = bool(json.loads(encoder.tokenizer.backend.to_str())["model"]["merges"])
    assert (encoder.fast is not None) == has_merges


def test_a_vocabulary_with_an_entry_that_its_merges_do_not_make_goes_the_slow_way() -> None:
    alphabet = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocab = alphabet | {"<|endoftext|>": 256, "bc": 257, "ab": 258, "abc": 259}  # bc comes first, so ab and c never meet
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[("b", "c"), ("a", "b"), ("ab", "c")]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>"])
    assert Encoder(Tokenizer(backend)).fast is None


@pytest.mark.slow
def test_every_character_of_unicode_has_the_tokenizer_s_ids(real_data: Path) -> None:
    encoder = Encoder(load_pretrained(str(real_data / "gpt2" / "tokenizer.json")))
    letters = [chr(code) for code in range(0, 0x110000, 3) if not 0xD800 <= code <= 0xDFFF]
    texts = [f"a{c}b1{c} {c}{c}.{c}2" for c in letters]
    for start in range(0, len(texts), 5000):
        part = texts[start : start + 5000]
        for ids, expected in zip(encoder.encode(part), encoder.tokenizer.encode_batch(part), strict=True):
            assert ids[:-1].tolist() == expected


@pytest.mark.slow
def test_real_text_has_the_tokenizer_s_ids(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder(load_pretrained(str(real_data / "gpt2" / "tokenizer.json")))
    texts = [text for path in sorted((real_data / "fineweb").glob("*.parquet")) for text in pq.read_table(path)["text"].to_pylist()]
    texts.append((real_data / "tinystories" / "valid.txt").read_text(encoding="utf-8"))
    expected = [[*ids, encoder.tokenizer.end_id] for ids in encoder.tokenizer.encode_batch(texts)]
    assert [ids.tolist() for ids in encoder.encode(texts)] == expected
    monkeypatch.setattr(encoders, "LONG_CHARACTERS", 1000)
    assert len(list(encoder.split_long(texts[-1]))) > 500
    assert [ids.tolist() for ids in encoder.encode(texts)] == expected


# ---- what is kept ----


def test_filters_drop_under_their_names(section: Section, tmp_path: Path) -> None:
    rows = [
        {
            "text": f"a text of some length {i}" + "!" * (i % 4),
            "language": "en" if i % 2 else "fr",
            "language_score": i / 100,
            "url": f"http://x{i % 5}.org/",
        }
        for i in range(100)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rules = (
        Values(kind="values", column="language", values=("en",)),
        Range(kind="range", column="language_score", min=0.3, max=0.9),
        Pattern(kind="pattern", column="url", pattern=r"//x1\.", keep=False),
        Length(kind="length", min=5, max=25),
    )
    result = run(with_sources(section, files=files(tmp_path / "a.jsonl", filters=rules, url_column="url")), tmp_path)
    keeps = {
        "language": lambda r: r["language"] == "en",
        "language_score": lambda r: 0.3 <= r["language_score"] <= 0.9,
        "url": lambda r: "//x1." not in r["url"],
        "length": lambda r: 5 <= len(r["text"]) <= 25,
    }
    dropped_by = [next((name for name, keep in keeps.items() if not keep(row)), None) for row in rows]
    account = result.manifest["sources"]["files"]
    assert account["dropped"] == {name: dropped_by.count(name) for name in keeps} and min(account["dropped"].values()) > 5
    assert sorted(documents_of(tmp_path)) == sorted(row["text"] for row, by in zip(rows, dropped_by, strict=True) if by is None)
    assert set(result.counts["files"]["hosts"]) == {"x0.org", "x2.org", "x3.org", "x4.org"}


def test_a_filter_that_keeps_nothing_says_which(section: Section, texts: list[str], tmp_path: Path) -> None:
    rule = Length(kind="length", min=100_000, max=None)
    with pytest.raises(Problem, match=r"data.sources.files: no document is left. Dropped: 600 by 'length'"):
        run(with_sources(section, files=files(write_jsonl(tmp_path / "a.jsonl", texts), filters=(rule,))), tmp_path)


def test_limits_take_the_first_documents_and_leave_the_rest_unread(section: Section, texts: list[str], tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    result = run(with_sources(section, files=files(path, max_documents=70)), tmp_path)
    assert sorted(documents_of(tmp_path)) == sorted(texts[:70])
    assert result.manifest["sources"]["files"]["documents_in"] < 400  # tasks behind the limit count for nothing
    result = run(with_sources(section, files=files(path, max_tokens=3000)), tmp_path / "tokens")
    tokens = result.manifest["sources"]["files"]["tokens"]
    assert 3000 <= tokens < 3200


def test_duplicates_are_dropped_across_tasks(section: Section, texts: list[str], tmp_path: Path) -> None:
    near = [f"{text} and then" if len(text.split()) > 30 else text for text in texts[:100]]
    path = write_jsonl(tmp_path / "a.jsonl", [*texts, *texts[100:200], *near, "hi", "hi"])
    changed = with_sources(section, files=files(path))
    assert len(make_plan(changed).tasks) > 3
    counts = {}
    for which in ("keep", "drop_exact", "drop_near"):
        result = run(dataclasses_replace(changed, duplicates=which), tmp_path / which)
        counts[which] = result.manifest["sources"]["files"]
    num_changed = sum(a != b for a, b in zip(near, texts[:100], strict=True))
    assert counts["keep"]["documents"] == 802 and num_changed > 30
    assert counts["drop_exact"]["dropped"] == {"exact_duplicate": 201 - num_changed}
    kept = documents_of(tmp_path / "drop_exact")
    assert sorted(kept) == sorted({*texts, *near, "hi"})
    kept = documents_of(tmp_path / "drop_near")
    assert len(kept) == len(set(kept)) and len(kept) < counts["drop_exact"]["documents"] - 0.8 * num_changed
    assert len(set(texts) - set(kept)) < num_changed  # of each cluster one is kept, so of a text and its double never neither
    assert all(text in kept or f"{text} and then" in kept for text in texts)


def dataclasses_replace(section: Section, **changes: object) -> Section:
    changed = dataclasses.replace(section, **{**changes, "task_bytes": 2**20})
    object.__setattr__(changed, "task_bytes", section.task_bytes)
    return changed


def test_a_mixture_has_its_shares_anywhere_and_repeats_nothing(section: Section, texts: list[str], tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    stories = Stories(kind="stories", grammar="short", num_documents=2000, seed=1, weight=1.0)
    changed = with_sources(section, web=files(path, weight=3.0), stories=stories)
    result = run(changed, tmp_path)
    tokens = {name: account["tokens"] for name, account in result.manifest["sources"].items()}
    assert abs(tokens["web"] / sum(tokens.values()) - 0.75) < 0.01
    assert result.manifest["sources"]["stories"]["dropped"]["beyond its share"] > 0
    train = documents_of(tmp_path, "train")
    assert len(set(train)) > 0.99 * len(train)
    known = set(texts)
    is_web = np.array([text in known for text in train])
    sizes = np.array([len(text) for text in train])
    quarter = len(train) // 4
    shares = [
        float(sizes[a : a + quarter][is_web[a : a + quarter]].sum() / sizes[a : a + quarter].sum()) for a in range(0, 3 * quarter, quarter)
    ]
    assert max(shares) - min(shares) < 0.1
    again = dataclasses_replace(changed, mixing_seed=1)
    run(again, tmp_path / "seed")
    assert documents_of(tmp_path / "seed", "train") != train and sorted(documents_of(tmp_path / "seed")) == sorted(documents_of(tmp_path))


def test_weights_are_of_all_sources_or_none_and_names_are_given_once(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    one = "+data.sources.b={kind: stories, grammar: long, num_documents: 3, seed: 1, weight: 2}"
    with pytest.raises(ConfigError, match="must all have a weight, or none of them"):
        compose([one], params)
    compose([one, "data.sources.stories.weight=1"], params)
    text = params.read_text()
    params.write_text(text.replace("    b:\n", "    stories:\n"))
    with pytest.raises(ConfigError, match="duplicate key stories"):
        check(params)


# ---- identical bytes ----


def test_workers_and_tasks_have_no_say_in_the_bytes(section: Section, texts: list[str], tmp_path: Path) -> None:
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
    section: Section, texts: list[str], tmp_path: Path, duplicates: str
) -> None:
    """The limit ends with a piece; behind it stand doubles of what another source has, and of what is kept."""
    first, others = write_jsonl(tmp_path / "a.jsonl", texts[:90]), write_jsonl(tmp_path / "c.jsonl", texts[100:300])
    assert first.stat().st_size < 20_000
    behind = write_jsonl(tmp_path / "b.jsonl", [*texts[100:300], *texts[:90]])
    limited = with_sources(section, a=files(first, behind, max_documents=90), c=files(others))
    found = set()
    for workers in (1, 4):
        result = run(
            dataclasses_replace(limited, duplicates=duplicates), tmp_path / str(workers), dataclasses.replace(HERE, workers=workers)
        )
        found.add(digest(tmp_path / str(workers)))
        assert result.manifest["sources"]["a"]["documents_in"] == 90
        assert sorted(documents_of(tmp_path / str(workers))) == sorted([*texts[:90], *texts[100:300]])
    assert len(found) == 1


def test_what_is_done_is_not_done_again(section: Section, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    changed = with_sources(section, files=files(path))
    tasks = len(make_plan(changed).tasks)
    done, write_account = [], steps.write_account

    def fail_at_third(folder: Path, rank: int, *rest: object) -> None:
        if len(done) == 2:
            raise Problem("the lights went out")
        done.append(rank)
        write_account(folder, rank, *rest)

    monkeypatch.setattr(steps, "write_account", fail_at_third)
    with pytest.raises(Problem, match="the lights went out"):
        run(changed, tmp_path)
    assert not (tmp_path / "shards").exists()
    again: list[int] = []
    monkeypatch.setattr(steps, "write_account", lambda folder, rank, *rest: (again.append(rank), write_account(folder, rank, *rest)))
    run(changed, tmp_path)
    assert done == [0, 1] and again == list(range(2, tasks))
    run(changed, tmp_path / "whole")
    assert digest(tmp_path) == digest(tmp_path / "whole")


def test_a_piece_that_was_lost_is_made_again(section: Section, texts: list[str], tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    changed = with_sources(section, files=files(path))
    result = shard(changed, HERE, tmp_path / "shards", tmp_path / "runs")
    first = digest(tmp_path)
    piece = result.work.pieces / "00001.bin"
    piece.write_bytes(piece.read_bytes()[:-2])
    shutil.rmtree(result.work.folder / "logs" / "shards")
    run(changed, tmp_path)
    assert digest(tmp_path) == first


def start_stage(params: Path, folder: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "stages.shard",
        "--params",
        str(params),
        "--runs",
        str(folder / "runs"),
        "--out",
        str(folder / "shards"),
    ]
    command += ["--metrics", str(folder / "metrics.json"), "--plots", str(folder / "plots"), "--report", str(folder / "data.html")]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture
def long_params(real_data: Path, tmp_path: Path) -> Path:
    """The real documents, four times over: several seconds' work, so that a kill comes in time on any machine."""
    (tmp_path / "in").mkdir()
    for path in (real_data / "fineweb").glob("*.parquet"):
        for number in range(4):
            (tmp_path / "in" / f"{number}_{path.name}").symlink_to(path)
    overrides = [
        "data=files",
        f"data.sources.files.paths=[{tmp_path}/in/*.parquet]",
        f"data.tokenizer.pretrained={real_data}/gpt2/tokenizer.json",
        "data.tokenizer.vocab_size=50257",
        "data.task_bytes=1048576",
        "data.shard_tokens=500000",
        "launch.sharding.workers=2",
        "tracking=off",
    ]
    compose(overrides, tmp_path / "params.yaml")
    return tmp_path / "params.yaml"


@pytest.fixture(scope="session")
def real_digest(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the real FineWeb documents, from files, by one worker."""
    folder = tmp_path_factory.mktemp("real")
    run(real_section(real_data, files(real_data / "fineweb" / "*.parquet")), folder)
    return digest(folder)


def real_section(real_data: Path, source: Columns) -> Section:
    tokenizer = {"pretrained": str(real_data / "gpt2" / "tokenizer.json"), "unit": "pieces", "vocab_size": 50_257, "train_documents": 1}
    return Section(
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


@pytest.mark.slow
def test_real_documents_are_the_same_by_two_workers(real_data: Path, real_digest: str, tmp_path: Path) -> None:
    source = files(real_data / "fineweb" / "*.parquet")
    run(real_section(real_data, source), tmp_path, dataclasses.replace(HERE, workers=2))
    assert digest(tmp_path) == real_digest
    assert len(documents_of(tmp_path)) == 2100


@pytest.mark.slow
@pytest.mark.parametrize("ranges", [True, False])
def test_real_documents_are_the_same_from_a_server_that_misbehaves(
    real_data: Path, real_digest: str, tmp_path: Path, ranges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT_SECONDS", 0.01)
    with serving(real_data / "fineweb", faulty=3, ranges=ranges) as server:
        urls = [f"{server.url}/{i:03d}_00000.parquet?signature=1" for i in range(3)]
        run(real_section(real_data, files(*urls)), tmp_path)
        assert digest(tmp_path) == real_digest
        assert {"drop", "429", "500", "slow", "short", "long"} <= set(server.faults)


@pytest.mark.slow
def test_kills_at_any_moment_cost_nothing_but_time(long_params: Path, tmp_path: Path) -> None:
    rng, kills, killed = random.Random(0), 0, tmp_path / "killed"
    assert start_stage(long_params, tmp_path / "whole").wait(timeout=120) == 0
    expected = digest(tmp_path / "whole")
    while True:
        process = start_stage(long_params, killed)
        try:
            _, errors = process.communicate(timeout=rng.uniform(0.8, 3.0) if kills < 6 else None)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            kills += 1
            assert not (killed / "shards").exists() or digest(killed) == expected
            continue
        assert process.returncode == 0, errors.decode()
        break
    assert kills > 0 and digest(killed) == expected
    assert (killed / "data.html").is_file() and not list(killed.glob(".*")) and not list((killed / "runs").iterdir())


@pytest.mark.slow
def test_a_worker_that_is_killed_is_noticed(long_params: Path, tmp_path: Path) -> None:
    process = start_stage(long_params, tmp_path)
    workers: list[psutil.Process] = []
    while len(workers) < 2:
        time.sleep(0.1)
        assert process.poll() is None
        workers = [p for p in psutil.Process(process.pid).children(recursive=True) if p.cpu_times().user > 0.3 and p.children() == []]
    workers[-1].kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and b"a worker was killed" in errors and b"Traceback" not in errors
    assert start_stage(long_params, tmp_path).wait(timeout=120) == 0


class Sleep(PipelineStep):
    """Leaves a file that says who works, and goes on for ten minutes; any rank but the first is done at once."""

    name = type = "sleep"

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        if rank == 0:
            self.file.write_text(str(os.getpid()))
            time.sleep(600)
        yield from ()


def workers_of(pid: int) -> list[psutil.Process]:
    """The processes that another one began to share work with: all that it began but the one that only begins others."""
    return [child for begun in psutil.Process(pid).children() for child in begun.children() if begun.is_running()]


@pytest.mark.parametrize(("is_idle", "on_interrupt"), [(True, signal.default_int_handler), (False, signal.SIG_IGN)])
def test_a_killed_worker_is_noticed_idle_or_not_in_the_background_too(
    tmp_path: Path, request: pytest.FixtureRequest, is_idle: bool, on_interrupt: Any
) -> None:
    request.addfinalizer(partial(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, on_interrupt)))
    busy, before = tmp_path / "busy", workers_of(os.getpid())

    def kill() -> None:
        while not (busy.is_file() and busy.read_text() and Engine(tmp_path, HERE).completed("sleep") == [1]):
            time.sleep(0.1)
        new = [process for process in workers_of(os.getpid()) if process not in before]
        assert len(new) == 2
        next(process for process in new if (process.pid != int(busy.read_text())) == is_idle).kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(Problem, match="a worker was killed"):
        Engine(tmp_path, dataclasses.replace(HERE, workers=2)).run("sleep", [Sleep(busy)], 2, lambda: 0, "tasks")
    killer.join()
    assert all(process in before for process in workers_of(os.getpid()))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_workers_end_with_the_process_that_began_them(tmp_path: Path, number: signal.Signals) -> None:
    script = (
        "from tests.test_sharding import *\n"
        f"Engine(Path({str(tmp_path)!r}), dataclasses.replace(HERE, workers=2))"
        f".run('sleep', [Sleep(Path({str(tmp_path / 'busy')!r}))], 2, lambda: 0, 'tasks')"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    while not (tmp_path / "busy").is_file() or len(workers := workers_of(process.pid)) < 2:
        time.sleep(0.1)
        assert process.poll() is None
    process.send_signal(number)
    assert process.wait(timeout=30) != 0
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive


def test_nothing_here_is_a_fork(section: Section, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        raise AssertionError("a fork of a process with threads may wait for ever for a lock that one of them held")

    monkeypatch.setattr(os, "fork", fork)
    changed = with_sources(section, files=files(write_jsonl(tmp_path / "a.jsonl", texts)))
    for workers in (1, 2):
        run(changed, tmp_path / str(workers), dataclasses.replace(HERE, workers=workers))
    assert digest(tmp_path / "1") == digest(tmp_path / "2")


# ---- clusters ----

FAKE_SLURM = {
    "sbatch": """#!/bin/bash
while [[ "$1" == --* ]]; do [[ "$1" == --export=* ]] && export "${1##*,}"; shift; done
count=$(sed -n 's/#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")
echo "array of $((count + 1))" >> "$FAKE_SLURM_LOG"
export SLURM_NODELIST=localhost SLURM_JOB_ID=7
for ((i = 0; i <= count; i++)); do SLURM_ARRAY_TASK_ID=$i bash "$1" >> "$FAKE_SLURM_LOG" 2>&1; done
echo "Submitted batch job 7"
""",
    "srun": '#!/bin/bash\nshift 3\nexec "$@"\n',
    "scontrol": "#!/bin/bash\necho localhost\n",
    "squeue": "#!/bin/bash\n",
}


@pytest.mark.slow
def test_slurm_does_the_tasks_through_its_queue(
    section: Section, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real executor and its job scripts, with a queue that does at once what it is given."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, script in FAKE_SLURM.items():
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    changed = with_sources(section, small_tasks=False, files=files(write_jsonl(tmp_path / "a.jsonl", texts)))
    slurm = dataclasses.replace(HERE, executor="slurm")
    with pytest.raises(Problem, match="sbatch is not here"):
        run(changed, tmp_path / "slurm", slurm)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM_LOG", str(tmp_path / "log"))
    run(changed, tmp_path / "slurm", slurm)
    run(changed, tmp_path / "here")
    assert digest(tmp_path / "slurm") == digest(tmp_path / "here")
    assert (tmp_path / "log").read_text().count("array of") >= 2
    (tools / "srun").write_text("#!/bin/bash\nexit 1\n")
    with pytest.raises(Problem, match=r"tokenize: 1 of 1 tasks were not done"):
        run(changed, tmp_path / "failing", slurm)


@pytest.mark.slow
def test_ray_does_the_tasks(section: Section, texts: list[str], tmp_path: Path) -> None:
    ray_sharding = dataclasses.replace(HERE, executor="ray")
    changed = with_sources(section, small_tasks=False, files=files(write_jsonl(tmp_path / "a.jsonl", texts)))
    if importlib.util.find_spec("ray") is None:
        with pytest.raises(Problem, match="ray: the package is not here"):
            run(changed, tmp_path / "ray", ray_sharding)
        pytest.skip("ray is not installed")
    run(changed, tmp_path / "ray", ray_sharding)
    run(changed, tmp_path / "here")
    assert digest(tmp_path / "ray") == digest(tmp_path / "here")


# ---- elsewhere ----


def test_a_server_that_refuses_or_keeps_failing_is_said(
    section: Section, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT_SECONDS", 0.001)
    write_jsonl(tmp_path / "a.jsonl", texts)
    with serving(tmp_path) as server:
        changed = with_sources(section, files=files(f"{server.url}/a.jsonl"))
        server.always = "403"
        with pytest.raises(Problem, match=r"a.jsonl: the server refuses it \(status 403\)"):
            run(changed, tmp_path / "out")
        server.always = None
        with pytest.raises(Problem, match="no such file there"):
            run(with_sources(section, files=files(f"{server.url}/b.jsonl")), tmp_path / "out")
        plan = make_plan(changed)
        server.always = "500"
        with pytest.raises(Problem, match=rf"a.jsonl: cannot be read, tried {remote.ATTEMPTS} times"):
            list(read_span(changed.sources["files"], plan.tasks[0].spans[0], []))
    with pytest.raises(Problem, match="data=stories"):
        run(changed, tmp_path / "out")
    assert not (tmp_path / "out" / "shards").exists()


def test_s3_and_other_places_are_opened_by_fsspec(section: Section, texts: list[str], tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/a.jsonl", write_jsonl(tmp_path / "a.jsonl", texts).read_bytes())
    run(with_sources(section, files=files("memory://bucket/*.jsonl")), tmp_path / "memory")
    run(with_sources(section, files=files(tmp_path / "a.jsonl")), tmp_path / "local")
    assert digest(tmp_path / "memory") == digest(tmp_path / "local")
    with pytest.raises(Problem, match="nowhere:// cannot be opened here"):
        make_plan(with_sources(section, files=files("nowhere://bucket/a.jsonl")))


def hub(name: str, **changes: object) -> Hub:
    return Hub(kind="hub", name=name, config="default", split="train", revision=REVISION, **(COLUMNS | changes))


@pytest.mark.slow
def test_the_hub_is_read_from_a_stand_in_that_speaks_its_protocol(real_data: Path, real_digest: str, tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    folder.mkdir()
    for path in (real_data / "fineweb").glob("*.parquet"):
        shutil.copy(path, folder)
    with serving(folder, faulty=2) as server:
        script = (
            "from tests.test_sharding import *\n"
            f"run(real_section(Path({str(real_data)!r}), hub({DATASET!r})), Path({str(tmp_path)!r}))\n"
            f"try: make_plan(real_section(Path({str(real_data)!r}), dataclasses.replace(hub({DATASET!r}), revision='v9')))\n"
            "except Problem as problem: print(problem)\n"
        )
        env = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run([sys.executable, "-c", script], env=os.environ | env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "revision v9) cannot be streamed" in done.stdout
    assert digest(tmp_path) == real_digest


def test_a_dataset_in_a_folder_is_read_as_the_hub_lays_it_out(real_data: Path, section: Section) -> None:
    plan = make_plan(with_sources(section, hub=hub(str(real_data / "fineweb"))))
    assert (
        isinstance(plan, Plan) and sum(span.stop - span.start for task in plan.tasks for span in task.spans) == plan.num_bytes() > 5_000_000
    )
    with pytest.raises(Problem, match="has no split 'test'; there are train"):
        make_plan(with_sources(section, hub=dataclasses.replace(hub(str(real_data / "fineweb")), split="test")))


def test_without_a_network_the_hub_says_what_runs(section: Section, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("cannot reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset_builder", refuse)
    with pytest.raises(Problem, match=r"cannot be streamed: cannot reach the Hub.*data=stories"):
        make_plan(with_sources(section, hub=hub("HuggingFaceFW/fineweb")))


def test_an_unreachable_hub_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    for name in ("HF_HUB_OFFLINE", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        go_offline_if_unreachable()
        assert "HF_HUB_OFFLINE" not in os.environ
    go_offline_if_unreachable()
    assert os.environ["HF_HUB_OFFLINE"] == "1"


# ---- room ----


def test_a_full_disk_is_said_and_nothing_is_half_written(
    section: Section, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sunfish.sharding.pieces import PieceWriter

    def full(self: PieceWriter, *_: object) -> None:
        raise OSError(28, "No space left on device")

    path = write_jsonl(tmp_path / "a.jsonl", texts)
    with monkeypatch.context() as patch:
        patch.setattr(PieceWriter, "append", full)
        with pytest.raises(Problem, match=r"cannot be written \(No space left on device\)"):
            run(with_sources(section, files=files(path)), tmp_path)
    assert not (tmp_path / "shards").exists()
    assert not [p for p in (tmp_path / "runs").rglob("*") if p.name.endswith((".tmp", ".bin"))]
    run(with_sources(section, files=files(path)), tmp_path)
    assert len(documents_of(tmp_path)) == 600


def test_the_split_follows_the_document() -> None:
    places = {f"document {i}": steps.place_of(f"document {i}".encode()) for i in range(5000)}
    held = [text for text, place in places.items() if place < 0.1 * steps.HOLD_OUT_SPAN]
    assert 400 < len(held) < 600 and steps.place_of(b"document 7") == places["document 7"]
