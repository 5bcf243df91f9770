"""`data.sources`: where documents come from and which of them are kept.

A source is one class and one entry of `SOURCES`. The class is its section of params.yaml, a frozen dataclass
with `kind: Literal[...]`, and knows its work: `tasks` divides it, `read` yields the documents of a part. How
files are read stands in `sunfish.sharding`, loaded only when documents are read: trainings read this section
too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, ClassVar, Literal

from sunfish.config.schema.filters import Filter, Selection
from sunfish.documents import File, Record, Span, Unreadable
from sunfish.errors import AT_LEAST_1, require, require_each

GENERATED_PER_TASK = 10_000  # stories take about two seconds


@dataclass(frozen=True, kw_only=True)
class Source:
    """What every source has; a new one overrides `read`, and the other methods where it needs to."""

    exchangeable: ClassVar[bool] = False  # the first documents are as good a sample as any
    has_turns: ClassVar[bool] = False  # documents are instructions and answers, see `sunfish.documents.TURN`

    weight: float | None  # share of the tokens beside other sources; null for all: everything of each

    def __post_init__(self) -> None:
        require(self.weight is None or self.weight > 0, "weight", "must be above 0, or null")

    def files(self, where: str) -> list[File]:
        """Return the files to be read; `where` names the setting in messages."""
        return []

    def local_files(self, where: str) -> list[File]:
        """Return those of the files that lie here, without asking a network; [] also where there are none."""
        return []

    def tasks(self, files: list[File], task_bytes: int) -> list[tuple[Span, ...]]:
        """Divide the work; the order of tasks is the order of documents."""
        return [(Span("", 1, 0, 1),)]

    def read(self, span: Span) -> Iterator[Record | Unreadable]:
        """Yield the documents of a span of a task, in order."""
        raise NotImplementedError(f"{type(self).__name__}.read")

    def selection(self) -> Selection:
        """Return which documents are kept."""
        return Selection()


@dataclass(frozen=True, kw_only=True)
class Generated(Source):
    """Documents that are written as they are read; need no network and no files."""

    exchangeable: ClassVar[bool] = True

    num_documents: int
    seed: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require_each(self, AT_LEAST_1, "num_documents")

    def tasks(self, files: list[File], task_bytes: int) -> list[tuple[Span, ...]]:
        """Divide the documents by their numbers."""
        count = -(-self.num_documents // GENERATED_PER_TASK)
        cuts = [self.num_documents * part // count for part in range(count + 1)]
        return [(Span("", self.num_documents, cuts[i], cuts[i + 1]),) for i in range(count)]

    def read(self, span: Span) -> Iterator[Record | Unreadable]:
        """Yield documents by number."""
        for number, text in zip(range(span.start, span.stop), self.write(span.start), strict=False):
            yield Record(text, {}, f"document {number}")

    def write(self, first: int) -> Iterator[str]:
        """Yield documents from the `first` on, without end; each depends on the seed and its number only."""
        raise NotImplementedError(f"{type(self).__name__}.write")


@dataclass(frozen=True, kw_only=True)
class Stories(Generated):
    """An embedded story grammar."""

    kind: Literal["stories"]
    grammar: Literal["short", "long"]  # long: twice as many sentences, and more to keep track of

    def write(self, first: int) -> Iterator[str]:
        """Yield stories."""
        grammar = _load("text.lexicon").GRAMMARS[self.grammar]
        return _load("text.stories").write_stories(self.seed, first, grammar)


@dataclass(frozen=True, kw_only=True)
class Puzzles(Generated):
    """Solved Sudoku grids, a line of digits each."""

    kind: Literal["puzzles"]
    size: Literal[4, 6, 9]  # rows, and digits
    # before each grid, for models that write from left to right: the grid with open cells ('.'), of which
    # random ones are given, or only those that one solution needs
    prompt: Literal["none", "random", "unique"]

    def write(self, first: int) -> Iterator[str]:
        """Yield grids."""
        return _load("text.puzzles").write_puzzles(self.seed, first, self.size, self.prompt)


@dataclass(frozen=True, kw_only=True)
class StoryTasks(Stories):
    """Instructions and stories of the grammar that meet them."""

    has_turns: ClassVar[bool] = True

    kind: Literal["story_tasks"]  # type: ignore[assignment]

    def write(self, first: int) -> Iterator[str]:
        """Yield tasks."""
        tasks, grammar = _load("text.tasks"), _load("text.lexicon").GRAMMARS[self.grammar]
        return map(tasks.as_document, tasks.write_tasks(self.seed, first, grammar))


@dataclass(frozen=True, kw_only=True)
class Columns(Source):
    """What files and Hub have in common: where the text stands, which documents are kept, how many."""

    text_column: str  # of parquet and JSON; a dotted path reaches into nested columns
    url_column: str | None  # whose hosts are counted for the look at the data
    filters: tuple[Filter, ...]
    # records that are no text: a line cut off, a page that is corrupt, half a surrogate pair
    unreadable: Literal["fatal", "skip"]
    max_documents: int | None  # of those that the filters keep, in the order of the files
    max_tokens: int | None  # up to the document that reaches it

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("max_documents", "max_tokens"):
            limit = getattr(self, key)
            require(limit is None or limit > 0, key, "must be at least 1, or null for no limit")

    def tasks(self, files: list[File], task_bytes: int) -> list[tuple[Span, ...]]:
        """Divide the files."""
        return _load("sharding.plan").divide_files(files, task_bytes)

    def read(self, span: Span) -> Iterator[Record | Unreadable]:
        """Yield the records that begin in a span of a file."""
        return _load("sharding.readers").read_span(self, span)

    def selection(self) -> Selection:
        """Return what the section says."""
        skip = self.unreadable == "skip"
        return Selection(self.filters, self.url_column, skip, self.max_documents, self.max_tokens)

    def setting_of(self, column: str) -> str:
        """Return which setting asks for a column, for messages."""
        return "text_column" if column == self.text_column else "filters"


@dataclass(frozen=True, kw_only=True)
class Files(Columns):
    """Files here or elsewhere, by path, folder, glob or URL: parquet, JSON lines, text, compressed or not."""

    kind: Literal["files"]
    paths: tuple[str, ...]
    separator: str | None  # between the documents of a txt file; null: one document a file

    def __post_init__(self) -> None:
        super().__post_init__()
        advice = "must name at least one file, e.g. -S 'data.sources.files.paths=[texts/*.parquet]'"
        require(len(self.paths) > 0, "paths", advice)
        require(self.separator != "", "separator", "must not be empty; null makes each txt file one document")

    def files(self, where: str) -> list[File]:
        """Find the files, each once, in the order of the paths."""
        return _load("sharding.find").find_all(self.paths, f"{where}.paths")

    def local_files(self, where: str) -> list[File]:
        """Find the files that lie here."""
        return _load("sharding.find").find_here(self.paths, f"{where}.paths")


@dataclass(frozen=True, kw_only=True)
class Tasks(Files):
    """Files of instructions and responses, parquet or JSON lines; `text_column` is that of the responses.

    With `instruction_column: null` it holds conversations instead: lists of {role, content}, the answer last.
    """

    has_turns: ClassVar[bool] = True

    kind: Literal["tasks"]  # type: ignore[assignment]
    instruction_column: str | None

    def read(self, span: Span) -> Iterator[Record | Unreadable]:
        """Yield the tasks that begin in a span of a file."""
        records = super().read(span)
        return (self._task(record) if isinstance(record, Record) else record for record in records)

    def _task(self, record: Record) -> Record | Unreadable:
        try:
            return replace(record, text=_load("text.tasks").as_document(self._turns(record)))
        except (ValueError, TypeError, KeyError) as error:
            return Unreadable(f"{record.where}: {error}")

    def _turns(self, record: Record) -> list[Any]:
        if self.instruction_column is None:
            return [turn["content"] for turn in record.columns[self.text_column] or ()]
        instruction = record.columns[self.instruction_column]
        if instruction is None:
            raise ValueError(f"has no {self.instruction_column!r}; set the source's instruction_column")
        return [instruction, record.text]

    def selection(self) -> Selection:
        """Return the same, with the instructions' column."""
        return super().selection()._replace(columns=(self.instruction_column or self.text_column,))

    def setting_of(self, column: str) -> str:
        """Return which setting asks for a column, for messages."""
        return "instruction_column" if column == self.instruction_column else super().setting_of(column)


@dataclass(frozen=True, kw_only=True)
class Hub(Columns):
    """A dataset of the Hugging Face Hub, read from there without a copy; FineWeb by default."""

    kind: Literal["hub"]
    name: str
    config: str  # for FineWeb a sample or a dump: sample-10BT, CC-MAIN-2024-51
    revision: str
    split: str

    def files(self, where: str) -> list[File]:
        """Find the dataset's files at the revision."""
        return _load("sharding.find").find_all(_load("sharding.hub").list_urls(self), where)


SOURCES: dict[str, type] = {
    "stories": Stories, "puzzles": Puzzles, "story_tasks": StoryTasks,
    "files": Files, "tasks": Tasks, "hub": Hub,
}  # fmt: skip


def _load(name: str) -> Any:
    """Return a module of `sunfish.text` or `sunfish.sharding`, which stand above the configuration."""
    return import_module(f"sunfish.{name}")
