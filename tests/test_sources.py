"""A source is one class and one entry; what lies behind a source's paths is noticed when it changes."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from sunfish.config.compose import compose
from sunfish.config.convert import ConfigError, build
from sunfish.config.schema.data import DataConfig
from sunfish.config.schema.sources import SOURCES, Source
from sunfish.sharding.fingerprint import fingerprint
from sunfish.text.tokenizer import train_tokenizer, write_tokenizer
from tests.corpora import documents_of, files, with_sources, write_jsonl

MINE = '''
from dataclasses import dataclass
from typing import Literal

from sunfish.config.schema.sources import SOURCES, Source
from sunfish.documents import Record, Unreadable


@dataclass(frozen=True, kw_only=True)
class Mine(Source):
    """Numbers in words."""

    kind: Literal["mine"]
    upto: int

    def read(self, span):
        for number in range(self.upto):
            yield Record(f"this is number {number} of mine", {}, f"number {number}")


SOURCES["mine"] = Mine
'''


def stage(name: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    command = [sys.executable, "-m", f"stages.{name}", "--params", str(folder / "params.yaml"), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_source_from_outside_is_sharded_beside_others(tmp_path: Path, workers: int) -> None:
    (tmp_path / "my_source.py").write_text(MINE)
    overrides = ["data.row_length=32", "data.held_out_share=0.1", f"launch.sharding.workers={workers}"]
    compose([*overrides, "data.sources.stories.num_documents=300"], tmp_path / "params.yaml")
    text = (tmp_path / "params.yaml").read_text().replace("plugins: []", "plugins: [my_source]")
    mine = "  sources:\n    own:\n      kind: mine\n      upto: 200\n      weight: null\n"
    (tmp_path / "params.yaml").write_text(text.replace("  sources:\n", mine))
    places = {"out": "shards", "metrics": "m.json", "plots": "plots", "report": "data.html", "runs": "runs"}
    done = stage("shard", tmp_path, *(x for k, v in places.items() for x in (f"--{k}", str(tmp_path / v))))
    assert done.returncode == 0, done.stderr
    sources = json.loads((tmp_path / "m.json").read_text())["sources"]
    assert {name: account["documents"] for name, account in sources.items()} == {"own": 200, "stories": 300}
    assert "this is number 7 of mine" in documents_of(tmp_path)
    assert "number" in (tmp_path / "data.html").read_text()


def test_every_entry_is_a_section_that_names_its_kind() -> None:
    for kind, source in SOURCES.items():
        assert issubclass(source, Source) and get_args(get_type_hints(source)["kind"]) == (kind,)
        required = [f.default is f.default_factory is dataclasses.MISSING for f in dataclasses.fields(source)]
        assert all(required)  # a default in Python is a parameter that DVC cannot see


def test_an_unknown_kind_is_said_with_the_nearest(section: DataConfig) -> None:
    values = dataclasses.asdict(section) | {"sources": {"a": {"kind": "story"}}}
    with pytest.raises(
        ConfigError, match=r"kind = .story.: should be one of stories, .*, hub; did you mean .stories."
    ):
        build(DataConfig, values, "data")


def test_the_configuration_loads_no_reader() -> None:
    code = "import sys, sunfish.config.compose; print(*[m for m in sys.modules if 'sunfish.sharding' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# ---- what changes behind a path ----


def test_documents_and_tokenizers_that_change_are_noticed(
    section: DataConfig, texts: list[str], tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "a.jsonl", texts[:100])
    write_jsonl(tmp_path / "large.jsonl", texts * 3)
    (tmp_path / "tokenizer").mkdir()
    write_tokenizer(train_tokenizer(texts, 300), tmp_path / "tokenizer")
    tokenizer = dataclasses.replace(section.tokenizer, pretrained=str(tmp_path / "tokenizer"))
    changed = with_sources(section, web=files(tmp_path / "*.jsonl", "https://x.org/a.jsonl"))
    changed = dataclasses.replace(changed, tokenizer=tokenizer, task_bytes=2**20)
    seen = [fingerprint(changed)]

    def has_changed() -> bool:
        seen.append(fingerprint(changed))
        return seen[-1] != seen[-2]

    assert not has_changed()
    os.utime(tmp_path / "a.jsonl")  # a small one's content decides
    assert not has_changed()
    write_jsonl(tmp_path / "a.jsonl", texts[1:101])
    assert has_changed()
    write_jsonl(tmp_path / "b.jsonl", texts[:3])
    assert has_changed()
    (tmp_path / "large.jsonl").write_bytes((tmp_path / "large.jsonl").read_bytes()[::-1])
    assert has_changed()
    write_tokenizer(train_tokenizer(texts, 301), tmp_path / "tokenizer")
    assert has_changed()
    (tmp_path / "b.jsonl").unlink()
    assert has_changed()
    assert [len(seen[-1]["sources"]["web"]), len(seen[-1]["tokenizer"])] == [2, 64]


def test_what_is_generated_or_remote_leaves_no_trace(section: DataConfig) -> None:
    remote = with_sources(section, web=files("https://x.org/a.jsonl", "s3://bucket/*.jsonl"))
    assert fingerprint(section) == fingerprint(remote) == {"sources": {}, "tokenizer": None}


def test_thousands_of_files_take_less_than_a_second(section: DataConfig, tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / f"{number:04}.txt").write_text(f"text {number}")
    changed = with_sources(section, web=files(tmp_path / "**" / "*.txt"))
    started = time.process_time()
    assert len(fingerprint(changed)["sources"]["web"]) == 3000
    assert time.process_time() < started + 1


def test_the_stage_writes_the_same_file_for_the_same_data(tmp_path: Path) -> None:
    compose([], tmp_path / "params.yaml")
    out = tmp_path / "data" / "fingerprint.json"
    for _ in range(2):
        done = stage("fingerprint", tmp_path, "--out", str(out))
        assert done.returncode == 0, done.stderr
        assert json.loads(out.read_text()) == {"sources": {}, "tokenizer": None}
