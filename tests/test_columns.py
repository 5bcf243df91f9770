"""Columns beside the text: found by their names, and what one holds costs no more than its record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sunfish.config.schema.data import DataConfig
from sunfish.config.schema.filters import Pattern, Range, Values
from sunfish.errors import UserError
from tests.corpora import GOOD, documents_of, files, run, with_sources


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("url", [["http://a.example/1"], 17, None, {"host": "a"}, "http://[broken", ""])
def test_a_column_of_urls_costs_no_document_whatever_it_holds(
    section: DataConfig, tmp_path: Path, url: object
) -> None:
    rows: list[dict[str, Any]] = [{"text": text, "url": "http://a.example/x"} for text in GOOD]
    rows += [{"text": "odd", "url": url}, {"text": "without"}]
    path = write_rows(tmp_path / "a.jsonl", rows)
    result = run(with_sources(section, files=files(path, url_column="url")), tmp_path)
    assert len(documents_of(tmp_path)) == 62 and result.manifest["sources"]["files"]["dropped"] == {}
    assert result.counts["files"]["hosts"]["a.example"] == 60


def test_a_missing_value_is_null_to_filters_too(section: DataConfig, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": text, "language": "en", "score": 1} for text in GOOD]
    path = write_rows(tmp_path / "a.jsonl", [*rows, {"text": "without"}, {"text": "null", "score": None}])
    rules = (
        Pattern(kind="pattern", column="language", pattern="xx", keep=False),
        Range(kind="range", column="score", min=0, max=None),
    )
    result = run(with_sources(section, files=files(path, filters=rules)), tmp_path)
    assert result.manifest["sources"]["files"]["dropped"] == {"score": 2}


def test_a_column_that_no_record_has_is_named_with_the_nearest(
    section: DataConfig, tmp_path: Path, capsys: Any
) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": text, "language": "en"} for text in GOOD])
    rules = [
        Pattern(kind="pattern", column=name, pattern="xx", keep=False) for name in ("langage", "language")
    ]
    result = run(with_sources(section, files=files(path, filters=tuple(rules))), tmp_path)
    assert result.manifest["sources"]["files"]["dropped"] == {}
    (note,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert note == (
        "note: data.sources.files: none of the first 60 records has a 'langage', which is asked for; "
        "it counts as null; did you mean 'language'?"
    )


def test_a_filter_that_fails_costs_the_record(section: DataConfig, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": text, "score": 1} for text in GOOD]
    path = write_rows(tmp_path / "a.jsonl", [*rows, {"text": "odd", "score": "high"}])
    rules = (Range(kind="range", column="score", min=0, max=None),)
    with pytest.raises(UserError, match=r"a.jsonl, line 61: 'score' holds 'high', no number"):
        run(with_sources(section, files=files(path, filters=rules)), tmp_path)
    source = files(path, filters=rules, unreadable="skip")
    result = run(with_sources(section, files=source), tmp_path)
    assert result.manifest["sources"]["files"]["dropped"] == {"unreadable": 1}


def test_nested_columns_are_reached_by_dotted_paths(section: DataConfig, tmp_path: Path) -> None:
    rows = [{"doc": {"text": text, "url": "http://a.example"}, "meta": {"lang": "en"}} for text in GOOD]
    rows += [{"doc": {"text": "ein Text", "url": None}, "meta": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    write_rows(tmp_path / "b.jsonl", rows)
    rules = (Values(kind="values", column="meta.lang", values=("en",)),)
    for path in sorted(tmp_path.glob("*.*")):
        source = files(path, text_column="doc.text", url_column="doc.url", filters=rules)
        result = run(with_sources(section, files=source), tmp_path / path.suffix)
        assert sorted(documents_of(tmp_path / path.suffix)) == sorted(GOOD), path.name
        assert result.counts["files"]["hosts"] == {"a.example": 60}
    pq.write_table(pa.table({"a.text": GOOD, "a": [{"text": "no"}] * 60}), tmp_path / "dot.parquet")
    run(with_sources(section, files=files(tmp_path / "dot.parquet", text_column="a.text")), tmp_path / "dot")
    assert sorted(documents_of(tmp_path / "dot")) == sorted(GOOD)
    with pytest.raises(UserError, match=r"a.parquet: has no column 'doc.body'"):
        run(
            with_sources(section, files=files(tmp_path / "a.parquet", text_column="doc.body")), tmp_path / "x"
        )
