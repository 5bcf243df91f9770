"""Sources -> tasks: which bytes of which files are one unit of work, whoever does it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from sunfish.config.schema.data import DataConfig, Files, Hub, Stories
from sunfish.errors import UserError
from sunfish.files import read_json, write_json
from sunfish.sharding.readers import DIVISIBLE, Span
from sunfish.sharding.remote import SUFFIXES, File, find_files, reason_of, suffix_of
from sunfish.text.hub import go_offline_if_unreachable

STORIES_OF_A_TASK = 10_000  # written in about two seconds
FORMAT = 1  # of what lies in a working folder; another one is not carried on


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
        if isinstance(source, Stories):
            tasks += [
                Task(name, (span,)) for span in _divide(File("", source.num_documents, ""), STORIES_OF_A_TASK)
            ]
            continue
        files = list_files(source, f"data.sources.{name}")
        found += [[file.path, file.size, file.version] for file in files]
        tasks += [
            Task(name, spans)
            for spans in _group(
                [s for f in files for s in _divide(f, section.task_bytes)], section.task_bytes
            )
        ]
    made_of = json.dumps(
        [FORMAT, dataclasses.asdict(section), found, _tokenizer_digest(section.tokenizer.pretrained)],
        sort_keys=True,
    )
    return Plan(section, tuple(tasks), hashlib.sha256(made_of.encode()).hexdigest()[:16])


def _tokenizer_digest(pretrained: str | None) -> str | None:
    """Return the sha256 of a tokenizer that is a file here."""
    path = Path(pretrained or "")
    path = path / "tokenizer.json" if path.is_dir() else path
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def list_files(source: Files | Hub, where: str) -> list[File]:
    """Return a source's files, each once, in their order."""
    patterns = source.paths if isinstance(source, Files) else _hub_files(source)
    files = {file.path: file for pattern in patterns for file in find_files(pattern, f"{where}.paths")}
    for path in files:
        if not suffix_of(path):
            raise UserError(
                f"{where}: {path}: this kind of file is not known; there are {', '.join(SUFFIXES)}"
            )
    return list(files.values())


def _hub_files(source: Hub) -> list[str]:
    """Return the URLs of a dataset's files at the revision, as its own card assigns them to configurations
    and splits.
    """
    go_offline_if_unreachable()
    import datasets

    datasets.disable_progress_bars()
    try:
        builder = datasets.load_dataset_builder(source.name, source.config, revision=source.revision)
        files = builder.config.data_files or {}
    # connection, DNS, proxy, missing dataset, configuration or revision: many classes, one meaning
    except Exception as error:
        raise UserError(
            f"{source.name} ({source.config}, revision {source.revision}) cannot be streamed: {reason_of(error)}. Without a network, "
            "data=stories (the embedded corpus) and data=files with data.sources.files.paths=[...] run"
        ) from error
    if source.split not in files:
        raise UserError(
            f"{source.name} ({source.config}): has no split {source.split!r}; there are {', '.join(map(str, files))}"
        )
    return [str(path) for path in files[source.split]]


def _divide(file: File, task_size: int) -> list[Span]:
    parts = -(-file.size // task_size) if suffix_of(file.path) in DIVISIBLE or not file.path else 1
    cuts = [file.size * part // max(parts, 1) for part in range(parts + 1)]
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
    write_json(
        path, [[task.source, [dataclasses.astuple(span) for span in task.spans]] for task in plan.tasks]
    )


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
