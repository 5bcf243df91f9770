"""Compressed files are read to the end of their last stream, or it is said that they are not."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from sunfish.config.schema.data import DataConfig
from sunfish.documents import Record, Span, Unreadable
from sunfish.errors import UserError
from sunfish.sharding.readers import read_span
from sunfish.sharding.streams import open_file
from tests.corpora import documents_of, files, run, with_sources, write_jsonl

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
}


def records(path: Path) -> list[Record | Unreadable]:
    size = path.stat().st_size
    return list(read_span(files(path), Span(str(path), size, 0, size)))


def lines(start: int, stop: int) -> bytes:
    return b"".join(b'{"text": "document %d"}\n' % i for i in range(start, stop))


@settings(max_examples=20)
@given(
    parts=st.lists(st.binary(max_size=5000), min_size=1, max_size=5).filter(any), padding=st.integers(0, 9)
)
@pytest.mark.parametrize("kind", COMPRESS)
def test_all_streams_of_a_file_are_read(
    tmp_path_factory: pytest.TempPathFactory, kind: str, parts: list[bytes], padding: int
) -> None:
    path = tmp_path_factory.mktemp("streams") / f"a.txt.{kind}"
    path.write_bytes(b"".join(COMPRESS[kind](part) + bytes(padding) for part in parts))
    with open_file(str(path), path.stat().st_size) as file:
        assert file.read() == b"".join(parts)


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("form", ["jsonl", "txt"])
def test_a_file_cut_off_anywhere_is_named_and_what_stands_before_is_read(
    tmp_path: Path, kind: str, form: str
) -> None:
    path = tmp_path / f"a.{form}.{kind}"
    first, second = COMPRESS[kind](lines(0, 400)), COMPRESS[kind](lines(400, 800))
    for cut in (1, len(first) // 2, len(first) - 1, len(first) + 3, len(first) + len(second) // 2):
        path.write_bytes((first + second)[:cut])
        *before, last = records(path)
        assert isinstance(last, Unreadable) and str(path) in last.reason and "cut off" in last.reason, cut
        if form == "jsonl" and cut > len(first):
            assert len(before) >= 400
    path.write_bytes(first + second)
    assert not any(isinstance(record, Unreadable) for record in records(path))


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("at", [0, 1])
def test_a_stream_that_is_none_is_named_whichever_it_is(tmp_path: Path, kind: str, at: int) -> None:
    path = tmp_path / f"a.jsonl.{kind}"
    path.write_bytes(COMPRESS[kind](lines(0, 10)) * at + b"this is no compressed stream at all" * 9)
    *before, last = records(path)
    assert len(before) == 10 * at and isinstance(last, Unreadable) and path.name in last.reason


def test_a_long_window_and_frames_to_skip_are_read(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=28, enable_ldm=True)
    packed = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    frame = packed.compress(lines(0, 400)) + packed.flush()
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd" + frame)
    assert len(records(path)) == 400


PLACEHOLDERS = {
    "zero": (b"", "is empty"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:abab\n", "is a Git LFS pointer"),
    "annex": (b"/annex/objects/MD5E-s5--ab.jsonl\n", "is a git-annex pointer"),
    "page": (b"\n<!DOCTYPE html><html><body>please log in</body></html>", "is a web page"),
    "zeros": (bytes(1000), "begins with zeros only"),
}  # fmt: skip


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.json", "a.txt", "a.jsonl.gz", "a.txt.zst"])
@pytest.mark.parametrize("kind", PLACEHOLDERS)
def test_what_stands_in_for_a_file_is_no_document(
    section: DataConfig, tmp_path: Path, name: str, kind: str
) -> None:
    content, says = PLACEHOLDERS[kind]
    if (name, kind) == ("a.txt", "page"):
        pytest.skip("a page may well be a text")
    (tmp_path / name).write_bytes(content)
    require_no_document(section, tmp_path, name, says)


@pytest.mark.parametrize("kind", COMPRESS)
def test_a_packed_nothing_is_no_document(section: DataConfig, tmp_path: Path, kind: str) -> None:
    (tmp_path / f"a.txt.{kind}").write_bytes(COMPRESS[kind](b""))
    require_no_document(section, tmp_path, f"a.txt.{kind}", "holds nothing")


def require_no_document(section: DataConfig, tmp_path: Path, name: str, says: str) -> None:
    good = write_jsonl(tmp_path / "b.jsonl", [f"good {i}" for i in range(50)])
    with pytest.raises(UserError, match=rf"{name}: {says}.*unreadable: skip"):
        run(with_sources(section, files=files(tmp_path / name, good)), tmp_path / "out")
    run(with_sources(section, files=files(tmp_path / name, good, unreadable="skip")), tmp_path / "out")
    assert len(documents_of(tmp_path / "out")) == 50
