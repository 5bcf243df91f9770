from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from sunfish.config.schema.data import DataConfig
from sunfish.config.schema.filters import Values
from sunfish.documents import Record, Span, Unreadable
from sunfish.errors import UserError
from sunfish.sharding import readers
from sunfish.sharding.plan import make_plan
from sunfish.sharding.readers import read_span
from tests.corpora import digest, documents_of, files, run, with_sources, write_jsonl


def test_every_kind_of_file_holds_the_same_documents(
    section: DataConfig, texts: list[str], tmp_path: Path
) -> None:
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
def test_spans_partition_the_lines_wherever_they_are_cut(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], step: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "a.jsonl"
    path.write_text(
        "\n".join(json.dumps({"text": line}, ensure_ascii=False) for line in lines), encoding="utf-8"
    )
    size = path.stat().st_size
    cuts = [*range(0, size, step), size]
    source = files(path)
    spans = [Span(str(path), size, a, b) for a, b in zip(cuts, cuts[1:], strict=False)]
    records = [record for span in spans for record in read_span(source, span)]
    assert [record.text for record in records if isinstance(record, Record)] == lines


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.parquet", b"no parquet at all", "is not a readable parquet file"),
        ("a.jsonl", b'{"text": "good"}\n{"text": "cut', "a.jsonl, line 2: is not JSON"),
        ("a.jsonl", b'{"text": "\xff"}\n', "line 1: is not UTF-8"),
        ("a.jsonl", b'{"words": "x"}\n', "line 1: has no text under 'text'; there are words"),
        ("a.jsonl", b'{"text": 3}\n', "line 1: holds int, no text, under 'text'"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "half a surrogate pair"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "good"}\n' * 9999)[:-40], "it may be cut off"),
        ("a.txt", b"abc\xff", "is not UTF-8 text (invalid start byte at byte 3)"),
    ],
)
def test_what_cannot_be_read_is_named_or_skipped_and_counted(
    section: DataConfig, tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    write_jsonl(tmp_path / "b.jsonl", [f"good {i}" for i in range(50)])
    with pytest.raises(UserError) as problem:
        run(with_sources(section, files=files(tmp_path / name, tmp_path / "b.jsonl")), tmp_path / "out")
    assert (
        says in str(problem.value) and name in str(problem.value) and "unreadable: skip" in str(problem.value)
    )
    assert not (tmp_path / "out" / "shards").exists()
    result = run(
        with_sources(section, files=files(tmp_path / name, tmp_path / "b.jsonl", unreadable="skip")),
        tmp_path / "out",
    )
    account = result.manifest["sources"]["files"]
    assert account["dropped"]["unreadable"] == 1 and account["documents"] >= 50
    assert account["documents_in"] == account["documents"] + sum(account["dropped"].values())


def test_the_line_is_named_where_a_span_begins_in_the_middle(
    section: DataConfig, texts: list[str], tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:500], b'{"text": "cut\n', *lines[500:]]))
    assert path.stat().st_size > 80_000  # four tasks
    with pytest.raises(UserError, match=r"a.jsonl, line 501: is not JSON"):
        run(with_sources(section, files=files(path)), tmp_path)


def test_a_line_that_is_too_long_is_left_out_and_nothing_is_read_twice(
    section: DataConfig, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "MAX_RECORD_BYTES", 10_000)
    path = write_jsonl(tmp_path / "a.jsonl", [*texts[:100], "long " * 20_000, *texts[100:]])
    changed = with_sources(section, files=files(path, unreadable="skip"))
    assert len(make_plan(changed).tasks) > 5
    result = run(changed, tmp_path)
    assert sorted(documents_of(tmp_path)) == sorted(texts) and result.manifest["sources"]["files"][
        "dropped"
    ] == {"unreadable": 1}


def test_a_corrupt_page_costs_its_rows_and_is_named(
    section: DataConfig, tmp_path: Path, real_data: Path
) -> None:
    data = bytearray((real_data / "fineweb" / "000_00000.parquet").read_bytes())
    where = pq.ParquetFile(real_data / "fineweb" / "000_00000.parquet").metadata.row_group(1).column(0)
    begin = where.data_page_offset + where.total_compressed_size // 2
    data[begin : begin + 2000] = bytes(2000)
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(UserError, match=r"a.parquet: rows \d+ to \d+ cannot be read"):
        run(with_sources(section, files=files(tmp_path / "a.parquet")), tmp_path)
    result = run(with_sources(section, files=files(tmp_path / "a.parquet", unreadable="skip")), tmp_path)
    account = result.manifest["sources"]["files"]
    assert (
        account["dropped"]["unreadable"] > 0
        and account["documents"] + account["dropped"]["unreadable"] == 700
    )


def test_a_flipped_bit_in_a_page_with_a_checksum_is_named(tmp_path: Path) -> None:
    path, texts = tmp_path / "a.parquet", [f"this is text {i}" for i in range(99)]
    kept = {"write_page_checksum": True, "compression": "NONE", "use_dictionary": False}
    pq.write_table(pa.table({"text": texts}), path, **kept)
    path.write_bytes(path.read_bytes().replace(b"text 77", b"text 76"))
    (lost,) = read_span(files(path), Span(str(path), path.stat().st_size, 0, path.stat().st_size))
    assert isinstance(lost, Unreadable) and "checksum" in lost.reason and lost.count == 99


def test_a_file_that_cannot_be_opened_costs_that_file(tmp_path: Path) -> None:
    (lost,) = read_span(files(tmp_path / "a.jsonl"), Span(str(tmp_path / "a.jsonl"), 9, 0, 9))
    assert isinstance(lost, Unreadable) and "a.jsonl: cannot be opened (No such file" in lost.reason


def test_a_missing_column_and_mixed_schemas_are_named_with_what_is_there(
    section: DataConfig, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"text": ["fine"] * 30}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"body": ["x"], "id": [1]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"b.parquet: has no column 'text'.*text_column to one of: body, id"):
        run(with_sources(section, files=files(tmp_path / "*.parquet")), tmp_path)
    pq.write_table(pa.table({"text": [1]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"b.parquet: column 'text' holds int64, not text"):
        run(with_sources(section, files=files(tmp_path / "*.parquet")), tmp_path)
    with pytest.raises(UserError, match=r"has no column 'language'; set the source's filters"):
        rule = Values(kind="values", column="language", values=("en",))
        run(with_sources(section, files=files(tmp_path / "a.parquet", filters=(rule,))), tmp_path)


def test_odd_texts_are_kept_as_they_are(section: DataConfig, tmp_path: Path) -> None:
    odd = [
        "a\x00b",
        "\u200b zero",
        "\ufffd",
        "tab\there\r\n",
        "<|endoftext|> in the text",
        "e\u0301",
        "\U0001f600" * 50,
    ]
    pq.write_table(
        pa.table({"text": [*odd, None, "", "  \n", *(f"filling {i}" for i in range(60))]}),
        tmp_path / "a.parquet",
    )
    result = run(with_sources(section, files=files(tmp_path / "a.parquet")), tmp_path)
    assert set(odd) <= set(documents_of(tmp_path))
    assert result.manifest["sources"]["files"]["dropped"] == {"empty": 3}


def test_no_such_file_or_kind_is_said(section: DataConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.sources.files.paths: nothing matches"):
        make_plan(with_sources(section, files=files(tmp_path / "*.txt")))
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(UserError, match=r"a.csv: this kind of file is not known; there are .parquet"):
        make_plan(with_sources(section, files=files(tmp_path / "a.csv")))
