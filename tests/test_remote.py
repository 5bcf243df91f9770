from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sunfish.config.schema.data import DataConfig
from sunfish.config.schema.sources import Hub
from sunfish.errors import UserError
from sunfish.sharding import remote
from sunfish.sharding.plan import Plan, make_plan
from sunfish.sharding.readers import read_span
from sunfish.text.hub import go_offline_if_unreachable
from tests.corpora import COLUMNS, digest, files, real_section, run, with_sources, write_jsonl
from tests.misbehaving import DATASET, REVISION, serving


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


def test_a_server_that_refuses_or_keeps_failing_is_said(
    section: DataConfig, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT_SECONDS", 0.001)
    write_jsonl(tmp_path / "a.jsonl", texts)
    with serving(tmp_path) as server:
        changed = with_sources(section, files=files(f"{server.url}/a.jsonl"))
        server.always = "403"
        with pytest.raises(UserError, match=r"a.jsonl: the server refuses it \(status 403\)"):
            run(changed, tmp_path / "out")
        server.always = None
        with pytest.raises(UserError, match="no such file there"):
            run(with_sources(section, files=files(f"{server.url}/b.jsonl")), tmp_path / "out")
        plan = make_plan(changed)
        server.always = "500"
        with pytest.raises(UserError, match=rf"a.jsonl: cannot be read, tried {remote.ATTEMPTS} times"):
            list(read_span(changed.sources["files"], plan.tasks[0].spans[0]))
    with pytest.raises(UserError, match="data=stories"):
        run(changed, tmp_path / "out")
    assert not (tmp_path / "out" / "shards").exists()


def test_s3_and_other_places_are_opened_by_fsspec(
    section: DataConfig, texts: list[str], tmp_path: Path
) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/a.jsonl", write_jsonl(tmp_path / "a.jsonl", texts).read_bytes())
    run(with_sources(section, files=files("memory://bucket/*.jsonl")), tmp_path / "memory")
    run(with_sources(section, files=files(tmp_path / "a.jsonl")), tmp_path / "local")
    assert digest(tmp_path / "memory") == digest(tmp_path / "local")
    with pytest.raises(UserError, match="nowhere:// cannot be opened here"):
        make_plan(with_sources(section, files=files("nowhere://bucket/a.jsonl")))


def hub(name: str, **changes: object) -> Hub:
    return Hub(
        kind="hub", name=name, config="default", split="train", revision=REVISION, **(COLUMNS | changes)
    )


@pytest.mark.slow
def test_the_hub_is_read_from_a_stand_in_that_speaks_its_protocol(
    real_data: Path, real_digest: str, tmp_path: Path
) -> None:
    folder = tmp_path / "dataset"
    folder.mkdir()
    for path in (real_data / "fineweb").glob("*.parquet"):
        shutil.copy(path, folder)
    with serving(folder, faulty=2) as server:
        script = (
            "from tests.test_remote import *\n"
            f"run(real_section(Path({str(real_data)!r}), hub({DATASET!r})), Path({str(tmp_path)!r}))\n"
            f"other = dataclasses.replace(hub({DATASET!r}), revision='v9')\n"
            f"try: make_plan(real_section(Path({str(real_data)!r}), other))\n"
            "except UserError as problem: print(problem)\n"
        )
        env = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(
            [sys.executable, "-c", script], env=os.environ | env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "revision v9) cannot be streamed" in done.stdout
    assert digest(tmp_path) == real_digest


def test_a_dataset_in_a_folder_is_read_as_the_hub_lays_it_out(real_data: Path, section: DataConfig) -> None:
    plan = make_plan(with_sources(section, hub=hub(str(real_data / "fineweb"))))
    assert (
        isinstance(plan, Plan)
        and sum(span.stop - span.start for task in plan.tasks for span in task.spans)
        == plan.num_bytes()
        > 5_000_000
    )
    with pytest.raises(UserError, match="has no split 'test'; there are train"):
        make_plan(
            with_sources(section, hub=dataclasses.replace(hub(str(real_data / "fineweb")), split="test"))
        )


def test_without_a_network_the_hub_says_what_runs(
    section: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("cannot reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset_builder", refuse)
    with pytest.raises(UserError, match=r"cannot be streamed: cannot reach the Hub.*data=stories"):
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
