"""Workers that are killed, fail or outlive their parent: it is noticed, and costs nothing but time."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from datatrove.pipeline.base import PipelineStep

from sunfish.config.compose import compose
from sunfish.config.schema.data import DataConfig
from sunfish.errors import UserError
from sunfish.sharding.engine import Engine
from tests.corpora import HERE, digest, files, run, with_sources, write_jsonl


def start_stage(params: Path, folder: Path) -> subprocess.Popen[bytes]:
    places = {"out": "shards", "runs": "runs", "metrics": "metrics.json", "plots": "plots"}
    places["report"] = "data.html"
    named = [part for key, name in places.items() for part in (f"--{key}", str(folder / name))]
    command = [sys.executable, "-m", "stages.shard", "--params", str(params), *named]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture
def long_params(real_data: Path, tmp_path: Path) -> Path:
    """The real documents, four times over: several seconds' work, so that a kill comes in time on any
    machine.
    """
    (tmp_path / "in").mkdir()
    for path in (real_data / "fineweb").glob("*.parquet"):
        for number in range(4):
            shutil.copy(path, tmp_path / "in" / f"{number}_{path.name}")
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
    assert (
        (killed / "data.html").is_file()
        and not list(killed.glob(".*"))
        and not list((killed / "runs").iterdir())
    )


@pytest.mark.slow
def test_a_worker_that_is_killed_is_noticed(long_params: Path, tmp_path: Path) -> None:
    process = start_stage(long_params, tmp_path)
    workers: list[psutil.Process] = []
    while len(workers) < 2:
        time.sleep(0.1)
        assert process.poll() is None
        workers = [worker for worker in workers_of(process.pid) if worker.cpu_times().user > 0.3]
    workers[-1].kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and b"a worker was killed" in errors and b"Traceback" not in errors
    assert start_stage(long_params, tmp_path).wait(timeout=120) == 0


class Sleep(PipelineStep):
    """Leaves a file that says who works, and goes on for ten minutes; any rank but the first is done at once,
    or cannot be done.
    """

    name = type = "sleep"

    def __init__(self, file: Path, problem: str | None = None) -> None:
        super().__init__()
        self.file, self.problem = file, problem

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        if rank == 0:
            self.file.write_text(str(os.getpid()))
            time.sleep(600)
        elif self.problem:
            raise UserError(self.problem)
        yield from ()


def workers_of(pid: int) -> list[psutil.Process]:
    """The processes that another one began to share work with: all that it began but the one that only begins
    others.
    """
    return [
        child for begun in psutil.Process(pid).children() for child in begun.children() if begun.is_running()
    ]


@pytest.mark.parametrize(
    ("is_idle", "on_interrupt"), [(True, signal.default_int_handler), (False, signal.SIG_IGN)]
)
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
    with pytest.raises(UserError, match="a worker was killed"):
        Engine(tmp_path, dataclasses.replace(HERE, workers=2)).run(
            "sleep", [Sleep(busy)], 2, lambda: 0, "tasks"
        )
    killer.join()
    assert all(process in before for process in workers_of(os.getpid()))


def test_what_cannot_be_done_is_said_before_others_are_done(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(UserError, match="the lights went out"):
        step = Sleep(tmp_path / "busy", "the lights went out")
        Engine(tmp_path, dataclasses.replace(HERE, workers=2)).run("sleep", [step], 2, lambda: 0, "tasks")
    assert time.monotonic() < started + 300


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_workers_end_with_the_process_that_began_them(
    tmp_path: Path, request: pytest.FixtureRequest, number: signal.Signals
) -> None:
    script = (
        "from tests.test_workers import *\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # which a job in the background ignores
        f"Engine(Path({str(tmp_path)!r}), dataclasses.replace(HERE, workers=2))"
        f".run('sleep', [Sleep(Path({str(tmp_path / 'busy')!r}))], 2, lambda: 0, 'tasks')"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    request.addfinalizer(process.kill)
    while not (tmp_path / "busy").is_file() or len(workers := workers_of(process.pid)) < 2:
        time.sleep(0.1)
        assert process.poll() is None
    process.send_signal(number)
    assert process.wait(timeout=30) != 0
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive


def test_nothing_here_is_a_fork(
    section: DataConfig, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fork() -> int:
        raise AssertionError(
            "a fork of a process with threads may wait for ever for a lock that one of them held"
        )

    monkeypatch.setattr(os, "fork", fork)
    changed = with_sources(section, files=files(write_jsonl(tmp_path / "a.jsonl", texts)))
    for workers in (1, 2):
        run(changed, tmp_path / str(workers), dataclasses.replace(HERE, workers=workers))
    assert digest(tmp_path / "1") == digest(tmp_path / "2")
