"""Which files a setting names: literally, by folder, by pattern, by URL; each once."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from sunfish.config.schema.data import DataConfig
from sunfish.errors import UserError
from sunfish.sharding.find import Kind, find_all, kind_of
from tests.corpora import digest, documents_of, files, run, with_sources, write_jsonl


def names(*patterns: Path | str) -> list[str]:
    return [file.path for file in find_all(map(str, patterns), "paths")]


def put(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    return str(write_jsonl(path, ["a text"]))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.parquet", Kind("parquet", "")),
        ("A.JSONL", Kind("jsonl", "")),
        ("a.ndjson.xz", Kind("jsonl", "xz")),
        ("c4.00000-of-00001.Json.Gz", Kind("json", "gz")),
        ("a.txt.bz2", Kind("txt", "bz2")),
        ("a.txt.zst", Kind("txt", "zst")),
        ("https://x.org/a.jsonl?key=1.txt", Kind("jsonl", "")),
        ("a.csv", None),
        ("a.parquet.gz", None),
        ("jsonl", None),
    ],
)  # fmt: skip
def test_a_kind_is_known_by_its_ending(name: str, kind: Kind | None) -> None:
    assert kind_of(name) == kind


def test_a_path_that_is_there_is_taken_literally_and_else_as_a_pattern(tmp_path: Path) -> None:
    odd = put(tmp_path / "[en] part" / "a*.jsonl")
    put(tmp_path / "[en] part" / "ab.jsonl")
    assert names(odd) == [odd]
    assert len(names(tmp_path / "[[]en] part" / "a*")) == 2
    assert len(names(tmp_path / "[en] part")) == 2


def test_folders_homes_and_file_urls_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = put(tmp_path / "my texts" / "deep" / "a (1).jsonl")
    (tmp_path / "my texts" / "README.md").touch()
    put(tmp_path / "my texts" / ".hidden" / "b.jsonl")
    for pattern in (
        tmp_path / "my texts",
        f"{tmp_path}/my texts/",
        "~/my texts/**/*.jsonl",
        "~/my texts/deep/*",
        f"file://{tmp_path}/my%20texts/deep/a%20(1).jsonl", f"{tmp_path}/**/deep/**/a*",
    ):  # fmt: skip
        assert names(pattern) == [path], pattern
    assert len(names(tmp_path / "my texts" / ".hidden" / "*")) == 1


def test_paths_are_relative_to_the_project_wherever_a_stage_runs(
    section: DataConfig, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC runs an experiment in a temporary copy of what git holds, and says where the project is."""
    project, copy = tmp_path / "project", tmp_path / "copy"
    for folder in (project / "texts", copy):
        folder.mkdir(parents=True)
    write_jsonl(project / "texts" / "a.jsonl", texts)
    monkeypatch.chdir(copy)
    with pytest.raises(UserError, match=rf"nothing matches 'texts/\*.jsonl'.*{copy}"):
        names("texts/*.jsonl")
    monkeypatch.setenv("DVC_ROOT", str(project))
    run(with_sources(section, files=files("texts/*.jsonl")), tmp_path / "out")
    assert sorted(documents_of(tmp_path / "out")) == sorted(texts)


def test_a_file_is_read_once_whatever_it_is_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = put(tmp_path / "run1" / "a.jsonl")
    os.link(path, tmp_path / "run1" / "hard.jsonl")
    for link, target in (("latest", "run1"), ("run1/round", ".."), ("run1/again", "."), ("0.jsonl", path)):
        (tmp_path / link).symlink_to(target)
    assert names(tmp_path / "**" / "*.jsonl", path, tmp_path / "run1" / ".." / "run1") == [path]
    assert "other names of files that are read anyway are left out" in capsys.readouterr().err
    (tmp_path / "broken.jsonl").symlink_to("nowhere")
    assert names(tmp_path / "**" / "*.jsonl") == [path]
    assert "broken.jsonl: left out, cannot be found" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("*.txt", "paths: nothing matches .*relative to the project's folder"),
        ("empty", "paths: '.*empty' is a folder in which there is no file of a known kind"),
        ("**/b.jsonl", "leaves out folders whose names begin with a dot"),
        ("e*", "it names folders only: add /\\*\\*"),
        ("{a,b}.jsonl", "{a,b} and \\$NAME are a shell's"),
        ("a.csv", "a.csv: this kind of file is not known; there are .parquet"),
    ],
)
def test_what_is_not_there_is_said_with_what_would_help(tmp_path: Path, pattern: str, says: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.csv").touch()
    put(tmp_path / ".dot" / "b.jsonl")
    with pytest.raises(UserError, match=says):
        names(tmp_path / pattern)


def test_json_is_an_array_or_lines(section: DataConfig, texts: list[str], tmp_path: Path) -> None:
    lines = write_jsonl(tmp_path / "lines.json", texts).read_bytes()
    array = json.dumps([{"text": text} for text in texts], indent=1, ensure_ascii=False).encode()
    (tmp_path / "array.json").write_bytes(b"\xef\xbb\xbf \n" + array)
    (tmp_path / "packed.JSON.GZ").write_bytes(gzip.compress(array))
    (tmp_path / "a.ndjson").write_bytes(lines)
    found = set()
    for path in sorted(tmp_path.glob("*.*")):
        run(with_sources(section, files=files(path)), tmp_path / path.name[:3])
        found.add(digest(tmp_path / path.name[:3]))
        documents = documents_of(tmp_path / path.name[:3])
        assert sorted(documents) == sorted(texts), path.name
    (tmp_path / "array.json").write_bytes(array[:-50])
    with pytest.raises(UserError, match=r"array.json: is not a JSON array to its end .*, behind .*item \d+"):
        run(with_sources(section, files=files(tmp_path / "array.json")), tmp_path / "cut")
