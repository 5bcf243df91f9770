from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sunfish.problems import Problem
from sunfish.sections.data import Files, Hub
from sunfish.text.corpus import is_held_out, read_documents
from sunfish.text.hub import go_offline_if_unreachable


def files(*paths: Path | str, column: str = "text", separator: str | None = None) -> Files:
    return Files(kind="files", paths=tuple(map(str, paths)), text_column=column, separator=separator)


def hub(name: str) -> Hub:
    return Hub(
        kind="hub", name=name, config="default", revision="main", split="train", text_column="text", max_documents=3, max_tokens=None
    )


def test_parquet_jsonl_and_txt_hold_the_same_documents(tmp_path: Path) -> None:
    texts = ["one", "zwei, größer", "三"]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    (tmp_path / "a.txt").write_text("<|endoftext|>".join(texts), encoding="utf-8")
    for name in ("a.parquet", "a.jsonl", "a.txt"):
        assert list(read_documents(files(tmp_path / name, separator="<|endoftext|>"))) == texts
    assert len(list(read_documents(files(tmp_path / "a.*", separator="<|endoftext|>")))) == 9


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.parquet", b"no parquet at all", "is not a readable parquet file"),
        ("a.jsonl", b'{"text": "good"}\n{"text": "cut', "line 2: is not JSON"),
        ("a.jsonl", b'{"text": "\xff"}\n', "line 1: is not UTF-8"),
        ("a.jsonl", b'{"words": "x"}\n', "line 1: has no text under 'text'"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "half a surrogate pair"),
        ("a.txt", b"abc\xff", "is not UTF-8 text (invalid start byte at byte 3)"),
        ("a.csv", b"x", "this kind of file is not known"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Problem) as problem:
        list(read_documents(files(tmp_path / name)))
    assert says in str(problem.value) and name in str(problem.value)


def test_a_missing_column_is_named_with_the_ones_there(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["x"], "id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(Problem, match="has no column 'text'.*body, id"):
        list(read_documents(files(tmp_path / "a.parquet")))


def test_a_path_that_matches_nothing_is_said(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="nothing matches"):
        list(read_documents(files(tmp_path / "*.txt")))


def test_a_cut_parquet_is_named(tmp_path: Path, real_data: Path) -> None:
    (tmp_path / "a.parquet").write_bytes((real_data / "fineweb" / "000_00000.parquet").read_bytes()[:100_000])
    with pytest.raises(Problem, match="a.parquet: is not a readable parquet"):
        list(read_documents(files(tmp_path / "a.parquet")))


def test_real_fineweb_documents_are_read(real_data: Path) -> None:
    documents = list(read_documents(files(real_data / "fineweb" / "*.parquet")))
    assert len(documents) == 2100


@pytest.mark.slow
def test_the_hub_reader_streams_a_local_stand_in(real_data: Path) -> None:
    documents = list(read_documents(hub(str(real_data / "fineweb"))))
    assert len(documents) == 3 and all(len(d) > 100 for d in documents)


def test_without_a_network_the_hub_says_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("cannot reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(Problem, match=r"cannot be streamed: cannot reach the Hub.*data=stories"):
        list(read_documents(hub("HuggingFaceFW/fineweb")))


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


def test_the_split_follows_the_document() -> None:
    documents = [f"document {i}" for i in range(5000)]
    held = [d for d in documents if is_held_out(d, 0.1)]
    assert 400 < len(held) < 600
    assert held == [d for d in documents if is_held_out(d, 0.1)]
    assert set(held) <= {d for d in documents if is_held_out(d, 0.2)}
