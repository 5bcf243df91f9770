"""Run a datatrove pipeline over all tasks that are not done: here, on Slurm or on Ray."""

from __future__ import annotations

import copy
import importlib.util
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datatrove.executor.base import PipelineExecutor
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.executor.ray import RayPipelineExecutor
from datatrove.executor.slurm import SlurmPipelineExecutor
from datatrove.utils.stats import PipelineStats
from loguru import logger

from sunfish.config.schema.launch import Sharding
from sunfish.errors import UserError
from sunfish.progress import Progress, clock

SECONDS_BETWEEN_LOOKS = 2.0
SECONDS_BETWEEN_CLUSTER_LOOKS = 5.0
MEMORY_GB = 2  # of a task on Ray


class _Local(LocalPipelineExecutor):
    """Tasks as processes of this machine, one thread each, quiet: what goes wrong is said once, by the
    process that began it.

    No process is a fork of this one: its threads' locks would stay locked there for ever."""

    def run(self) -> None:
        """Do the tasks that have no completion marker.

        Raises:
            UserError: a worker was killed, or a task says what is wrong.
        """
        ranks = self.get_incomplete_ranks(range(self.tasks))
        if self.workers == 1:
            for rank in ranks:  # by a copy: its steps keep account of what they do
                copy.deepcopy(self)._run_for_rank(rank)
            return
        context, others = multiprocessing.get_context("forkserver"), multiprocessing.active_children()
        context.set_forkserver_preload(["sunfish.sharding.steps", "sunfish.sharding.engine"])
        workers = ProcessPoolExecutor(self.workers, context, _end_with_the_parent)
        try:
            for task in as_completed([workers.submit(self._run_for_rank, rank) for rank in ranks]):
                task.result()
        except BrokenProcessPool:
            raise UserError(
                "a worker was killed, perhaps for want of memory: fewer at once (launch.sharding.workers) "
                "need less. Run it again: what is done stays done"
            ) from None
        except BaseException:  # what is still running is not waited for
            for process in set(multiprocessing.active_children()) - set(others):
                process.terminate()
            raise
        finally:
            workers.shutdown(cancel_futures=True)

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> PipelineStats:
        logger.disable("datatrove")
        return super()._run_for_rank(rank, local_rank, node_rank)


def _end_with_the_parent() -> None:
    """Leave interruptions to the parent of this worker, and end when it does, even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Engine:
    """Runs pipelines one after another, each with its own folder of completion markers."""

    def __init__(self, logs: Path, sharding: Sharding) -> None:
        self.logs, self.sharding = logs, sharding
        logger.disable("datatrove")

    def run(
        self, name: str, steps: list[Any], tasks: int, done: Callable[[], int], unit: str, small: bool = False
    ) -> None:
        """Run `steps` once for each task without a completion marker; `done` counts units of progress.

        Small work is done here by this process: others would take longer to start.

        Raises:
            UserError: a task cannot be done; those that are done stay done.
        """
        executor = self._executor(name, steps, tasks, small)

        def count_done() -> int:
            return tasks - len(executor.get_incomplete_ranks(range(tasks)))

        if (before := count_done()) == tasks:
            return
        with Progress(name, None, unit, done()) as progress:
            if before:
                progress.say(f"{name}: {before} of {tasks} tasks were done before")
            with _watching(progress, done, count_done, tasks):
                if isinstance(executor, LocalPipelineExecutor):
                    _run_here(executor)
                elif isinstance(executor, SlurmPipelineExecutor):
                    _run_on_slurm(executor, tasks)
                else:
                    executor.run()
        if missing := tasks - count_done():
            what = f"{name}: {missing} of {tasks} tasks were not done"
            raise UserError(f"{what}; {self.logs / name} says why. Run it again: it does only those")

    def forget(self, name: str, ranks: list[int]) -> None:
        """Take back the completion of some tasks."""
        for rank in ranks:
            (self.logs / name / "completions" / f"{rank:05d}").unlink(missing_ok=True)

    def completed(self, name: str) -> list[int]:
        """Return the ranks that have a completion marker."""
        return sorted(int(path.name) for path in (self.logs / name / "completions").glob("*"))

    def _executor(self, name: str, pipeline: list[Any], tasks: int, small: bool) -> PipelineExecutor:
        logs, sharding = str((self.logs / name).resolve()), self.sharding
        shared: dict[str, Any] = {"pipeline": pipeline, "tasks": tasks, "logging_dir": logs}
        _require(sharding.executor)
        if small or sharding.executor == "local":
            workers = min(sharding.workers or len(os.sched_getaffinity(0)), tasks)
            return _Local(**shared, workers=1 if small else workers)
        shared["workers"] = sharding.workers or -1
        if sharding.executor == "ray":
            return RayPipelineExecutor(**shared, mem_per_cpu_gb=MEMORY_GB)
        activate = str(Path(sys.prefix) / "bin" / "activate")
        shared |= {"job_name": f"sunfish-{name}", "venv_path": activate, "mail_type": "NONE"}
        return SlurmPipelineExecutor(**shared, **vars(sharding.slurm))


def _run_here(executor: LocalPipelineExecutor) -> None:
    threads = max(1, len(os.sched_getaffinity(0)) // executor.workers)
    parallel = "true" if threads > 1 else "false"
    with _environment(RAYON_NUM_THREADS=str(threads), TOKENIZERS_PARALLELISM=parallel):
        executor.run()


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set variables for the processes that begin in this block, where the user has not."""
    new = {key: value for key, value in values.items() if key not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for key in new:
            del os.environ[key]


@contextmanager
def _watching(
    progress: Progress, done: Callable[[], int], completed: Callable[[], int], tasks: int
) -> Iterator[None]:
    """Show progress from what lies on the disk, whichever machine wrote it."""
    over, started, before = threading.Event(), time.monotonic(), completed()

    def show() -> None:
        now = completed()
        each = (time.monotonic() - started) / (now - before) if now > before else None
        left = f", about {clock(each * (tasks - now))} left" if each and now < tasks else ""
        progress.add(max(0, done() - progress.done), f"{now}/{tasks} tasks{left}")

    def watch() -> None:
        while not over.wait(SECONDS_BETWEEN_LOOKS):
            show()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        show()


def _require(executor: str) -> None:
    missing = [tool for tool in ("sbatch", "squeue") if shutil.which(tool) is None]
    setting = f"launch.sharding.executor = {executor}"
    if executor == "slurm" and missing:
        raise UserError(f"{setting}: {missing[0]} is not here; start it on a node that submits jobs")
    if executor == "ray" and importlib.util.find_spec("ray") is None:
        raise UserError(f"{setting}: the package is not here; pip install 'ray[default]'")


def _run_on_slurm(executor: SlurmPipelineExecutor, tasks: int) -> None:
    """Submit the tasks, and wait until all are done or none of the job's is left in the queue."""
    with _environment(RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false"):  # sbatch hands it on
        executor.run()
    while executor.get_incomplete_ranks(range(tasks)):
        command = ["squeue", "--noheader", "--jobs", str(executor.job_id)]
        queue = subprocess.run(command, capture_output=True, text=True, check=False)
        if not queue.stdout.strip():
            return
        time.sleep(SECONDS_BETWEEN_CLUSTER_LOOKS)
