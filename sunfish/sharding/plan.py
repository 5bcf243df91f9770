"""Sources -> tasks: which bytes of which files are one unit of work, whoever does it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from sunfish.config.schema.data import DataConfig
from sunfish.documents import File, Span
from sunfish.files import read_json, sha256, write_json
from sunfish.sharding.find import kind_of
from sunfish.text.tokenizer import local_tokenizer

FORMAT = 2  # of what lies in a working folder; another one is not carried on


@dataclass(frozen=True)
class Task:
    """Spans of one source, in order."""

    source: str
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Plan:
    """All tasks, in the order in which their documents follow one another within a source."""

    section: DataConfig
    tasks: tuple[Task, ...]
    fingerprint: str  # of the configuration and the files as they were found

    def num_bytes(self) -> int:
        """Return the bytes of all files' spans."""
        return sum(span.stop - span.start for task in self.tasks for span in task.spans)


def make_plan(section: DataConfig) -> Plan:
    """List the sources' files and divide them into tasks of about `task_bytes` each.

    Raises:
        UserError: files that are not there, or of a kind that cannot be read.
    """
    tasks: list[Task] = []
    found: list[list[str | int]] = []
    for name, source in section.sources.items():
        files = source.files(f"data.sources.{name}")
        found += [[file.path, file.size, file.version] for file in files]
        tasks += [Task(name, spans) for spans in source.tasks(files, section.task_bytes)]
    made_of = [FORMAT, dataclasses.asdict(section), found, tokenizer_digest(section.tokenizer.pretrained)]
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
    return Plan(section, tuple(tasks), digest[:16])


def tokenizer_digest(pretrained: str | None) -> str | None:
    """Return the sha256 of a tokenizer that is a file here."""
    file = local_tokenizer(pretrained) if pretrained else None
    return sha256(file) if file else None


def divide_files(files: list[File], task_bytes: int) -> list[tuple[Span, ...]]:
    """Divide files into tasks: large ones into several, small ones together."""
    return _group([span for file in files for span in _divide(file, task_bytes)], task_bytes)


def _divide(file: File, task_size: int) -> list[Span]:
    kind = kind_of(file.path)
    parts = max(1, -(-file.size // task_size)) if kind is not None and kind.is_divisible else 1
    cuts = [file.size * part // parts for part in range(parts + 1)]
    return [Span(file.path, file.size, start, stop) for start, stop in pairwise(cuts)]


def _group(spans: list[Span], task_bytes: int) -> list[tuple[Span, ...]]:
    """Put small spans together until they are a task's worth."""
    groups: list[list[Span]] = []
    room = 0
    for span in spans:
        size = span.stop - span.start
        if not groups or size > room:
            groups.append([])
            room = task_bytes
        groups[-1].append(span)
        room -= size
    return [tuple(group) for group in groups]


def write_tasks(plan: Plan, path: Path) -> None:
    """Write the tasks for those who do them, on whatever machine."""
    write_json(path, [[task.source, list(map(dataclasses.astuple, task.spans))] for task in plan.tasks])


def read_task(path: Path, rank: int) -> Task:
    """Read one task of what `write_tasks` wrote."""
    source, spans = read_json(path)[rank]
    return Task(source, tuple(Span(*span) for span in spans))


def sources_in_order(plan: Plan) -> dict[str, list[int]]:
    """Return each source's tasks by rank."""
    ranks: dict[str, list[int]] = {name: [] for name in plan.section.sources}
    for rank, task in enumerate(plan.tasks):
        ranks[task.source].append(rank)
    return ranks
