"""One record's trouble costs that record at most, and is said with its place."""

from __future__ import annotations

import hashlib
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sunfish.config.schema.data import DataConfig
from sunfish.config.schema.filters import Pattern, Range
from sunfish.errors import UserError
from sunfish.sharding import encoder, readers
from sunfish.sharding.data_report import draw_lengths, look_at
from sunfish.sharding.duplicates import Words
from sunfish.sharding.encoder import Encoder
from sunfish.sharding.shard import shard
from sunfish.sharding.text_files import separator_pattern
from sunfish.text.tokenizer import load_pretrained, train_tokenizer
from tests.corpora import GOOD, HERE, documents_of, files, run, with_sources, write_jsonl

# ---- what a library cannot do ----


@pytest.mark.parametrize("run_of", [" ", "\n", "\u00a0"])
@pytest.mark.parametrize("name", ["trained", "gpt2"])
def test_a_run_that_is_too_long_for_a_pattern_has_the_tokenizer_s_ids(
    request: pytest.FixtureRequest, run_of: str, name: str
) -> None:
    if name == "gpt2":
        tokenizer = load_pretrained(str(request.getfixturevalue("real_data") / "gpt2" / "tokenizer.json"))
    else:
        tokenizer = train_tokenizer(GOOD, 300)
    text = f"a{run_of * 1_040_000}b"
    (ids,) = Encoder(tokenizer).encode([text])
    assert not isinstance(ids, Exception) and tokenizer.decode(ids[:-1].tolist()) == text


class Panic(BaseException):
    """As a panic in Rust arrives: it is no `Exception`."""


@pytest.mark.parametrize("error", [ValueError("Max stack size exceeded"), Panic("index out of bounds")])
def test_a_document_that_no_library_encodes_is_named_or_left_out(
    section: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [*GOOD, "bad luck", *GOOD])

    def fail(self: Encoder, text: str) -> Any:
        return encoder._as_failure(error) if "bad luck" in text else original(self, text)

    original = Encoder._encode
    monkeypatch.setattr(Encoder, "_encode", fail)
    with pytest.raises(UserError, match=r"a.jsonl, line 61: cannot be tokenized \(.*unreadable: skip"):
        run(with_sources(section, files=files(path)), tmp_path)
    for which in ("keep", "drop_exact"):
        changed = with_sources(section, files=files(path, unreadable="skip"))
        object.__setattr__(changed, "duplicates", which)
        account = run(changed, tmp_path / which).manifest["sources"]["files"]
        assert account["dropped"]["unreadable"] == 1 and account["documents_in"] == 121
        assert set(documents_of(tmp_path / which)) <= set(GOOD)


@pytest.mark.parametrize("where", ["_parse", "_next_line"])
def test_whatever_a_reader_raises_is_named_or_left_out(
    section: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    bad, good = write_jsonl(tmp_path / "a.jsonl", GOOD[:9]), write_jsonl(tmp_path / "b.jsonl", GOOD)
    original, calls = getattr(readers, where), []

    def fail(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) % 80 == 5:
            raise ArithmeticError("a library's own")
        return original(*arguments)

    monkeypatch.setattr(readers, where, fail)
    with pytest.raises(
        UserError, match=r"a.jsonl: cannot be read \(ArithmeticError.*behind .*a.jsonl, line 4"
    ):
        run(with_sources(section, files=files(bad, good)), tmp_path)
    calls.clear()
    run(with_sources(section, files=files(bad, good, unreadable="skip")), tmp_path)
    assert len(documents_of(tmp_path)) > 50


def test_numbers_too_long_for_python_cost_nothing(section: DataConfig, tmp_path: Path) -> None:
    long = '{"n": ' + "1" * 5000 + ', "text": "a text"}'
    lines, array = write_jsonl(tmp_path / "a.jsonl", GOOD), tmp_path / "b.json"
    lines.write_text(f"{lines.read_text()}{long}\n")
    array.write_text(f"[{','.join(lines.read_text().splitlines())}]")
    for path in (lines, array):
        run(with_sources(section, files=files(path)), tmp_path / path.stem)
        assert sorted(documents_of(tmp_path / path.stem)) == sorted([*GOOD, "a text"])


def test_decimal_numbers_are_numbers(section: DataConfig, tmp_path: Path) -> None:
    scores = [Decimal(i) / 100 for i in range(60)]
    pq.write_table(pa.table({"text": GOOD, "score": scores}), tmp_path / "a.parquet")
    rules = (Range(kind="range", column="score", min=0.1, max=None),)
    run(with_sources(section, files=files(tmp_path / "a.parquet", filters=rules)), tmp_path)
    assert sorted(documents_of(tmp_path)) == sorted(GOOD[10:])


def test_times_that_python_does_not_know_cost_nothing(section: DataConfig, tmp_path: Path) -> None:
    times = pa.array([10**15] * 60, pa.timestamp("ms"))
    pq.write_table(pa.table({"text": GOOD, "time": times}), tmp_path / "a.parquet")
    rules = (Pattern(kind="pattern", column="time", pattern="20", keep=False),)
    run(with_sources(section, files=files(tmp_path / "a.parquet", filters=rules)), tmp_path)
    assert len(documents_of(tmp_path)) == 60


# ---- text files ----


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("separator", ["\n===\n", "\\n===\\n", "\r\n===\r\n"])
def test_separators_are_found_whatever_ends_a_line(
    section: DataConfig, tmp_path: Path, end: str, separator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sunfish.sharding.text_files.CHUNK_BYTES", 7)
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + f"{end}==={end}".join(GOOD).encode())
    run(with_sources(section, files=files(tmp_path / "a.txt", separator=separator)), tmp_path)
    assert sorted(documents_of(tmp_path)) == sorted(GOOD)


def test_escapes_in_a_separator_are_what_they_mean() -> None:
    pattern = separator_pattern("\\n\\n")
    assert pattern is not None and pattern.split("a\n\nb\r\n\r\nc\\n\\nd") == ["a", "b", "c\\n\\nd"]
    literal = separator_pattern("\\\\n.")
    assert literal is not None and literal.split("a\\n.b\nxc") == ["a", "b\nxc"]


# ---- languages without spaces ----


def hanzi(seed: str, count: int) -> str:
    data = b"".join(hashlib.sha256(f"{seed}-{k}".encode()).digest() for k in range(count // 16 + 1))
    return "".join(chr(0x4E00 + int.from_bytes(data[2 * i : 2 * i + 2], "big") % 5000) for i in range(count))


@pytest.mark.parametrize("shift", [0, 0x0E01 - 0x4E00])  # Han; the same in Thai
def test_near_duplicates_are_found_without_spaces_and_others_are_kept(
    section: DataConfig, tmp_path: Path, shift: int
) -> None:
    def script(text: str) -> str:
        return text if shift == 0 else "".join(chr(0x0E01 + ord(sign) % 46) for sign in text)

    base = script(hanzi("base", 1000))
    near = [base[:-1] + sign for sign in script(hanzi("ends", 40))]
    distinct = [script(hanzi(str(i), 300)) for i in range(40)]
    changed = with_sources(section, files=files(write_jsonl(tmp_path / "a.jsonl", [*near, *distinct])))
    object.__setattr__(changed, "duplicates", "drop_near")
    run(changed, tmp_path)
    kept = documents_of(tmp_path)
    assert set(distinct) <= set(kept) and len(kept) == 41


def test_words_are_as_before_where_there_are_spaces() -> None:
    words = Words.__new__(Words).word_tokenize
    assert words("the old  mill\nof größe 1,000") == ["the", "old", "mill", "of", "größe", "1,000"]
    assert words("go 数据 x") == ["go", "数", "据", "x"] and len(words("x" * 500)) == 500


# ---- pages ----


def test_the_page_shows_every_source_and_no_control(
    section: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sunfish.sharding import data_report

    texts = [f"\x1b[31mred\x1b[0m \u202e{i} <b>" for i in range(40)]
    sources = {f"s{i}": files(write_jsonl(tmp_path / f"{i}.jsonl", texts)) for i in range(8)}
    result = shard(with_sources(section, **sources), HERE, tmp_path / "shards", tmp_path / "runs")
    drawn: list[Any] = []
    monkeypatch.setattr(data_report, "picture", lambda path, draw, title: drawn.append(draw))
    draw_lengths(tmp_path / "a.png", [look_at(result, name) for name in sources])
    from matplotlib import pyplot as plt

    _, axes = plt.subplots()
    drawn[0](axes)
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.get_lines()}) == 8
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(sources)
    monkeypatch.undo()
    page = tmp_path / "data.html"
    shards = data_report.Shards(tmp_path / "shards")
    data_report.write_data_report(page, tmp_path / "p", with_sources(section, **sources), result, shards)
    shown = page.read_text()
    assert "\x1b" not in shown and "\u202e" not in shown and "\\x1b[31mred" in shown and "&lt;b&gt;" in shown
