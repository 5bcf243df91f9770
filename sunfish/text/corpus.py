"""Documents in: the embedded stories, local files, or a dataset streamed from the Hub."""

from __future__ import annotations

import glob
import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from sunfish.problems import Problem
from sunfish.sections.data import Files, Hub, Stories
from sunfish.text.hub import go_offline_if_unreachable
from sunfish.text.stories import write_stories

HOLD_OUT_SPAN = 2**64


def read_documents(source: Stories | Files | Hub) -> Iterator[str]:
    """Yield the source's documents in a fixed order; those that are empty or only white space are left out.

    Raises:
        Problem: a file or dataset that cannot be read, named, with what to do.
    """
    if isinstance(source, Stories):
        documents: Iterator[str] = itertools.islice(write_stories(source.seed), source.num_documents)
    elif isinstance(source, Files):
        documents = _read_files(source)
    else:
        documents = itertools.islice(_stream_hub(source), source.max_documents)
    return (document for document in documents if document.strip())


def is_held_out(document: str, share: float) -> bool:
    """Say by the document's hash whether it is held out: equal documents always fall on the same side."""
    digest = hashlib.sha256(document.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * HOLD_OUT_SPAN


def find_files(paths: tuple[str, ...]) -> list[Path]:
    """Return the files that paths and globs name, each once, sorted within a glob."""
    found: dict[Path, None] = {}
    for pattern in paths:
        matches = sorted(glob.glob(pattern, recursive=True))
        if not matches:
            raise Problem(f"data.source.paths: nothing matches {pattern!r}; paths are relative to the project's folder")
        found |= {Path(match): None for match in matches}
    return list(found)


def _read_files(source: Files) -> Iterator[str]:
    readers = {".parquet": _read_parquet, ".jsonl": _read_jsonl, ".txt": _read_txt}
    files = find_files(source.paths)
    for path in files:
        if path.suffix not in readers:
            raise Problem(f"{path}: this kind of file is not known; there are {', '.join(readers)}")
    for path in files:
        yield from readers[path.suffix](path, source)


def _read_parquet(path: Path, source: Files) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise Problem(f"{path}: is not a readable parquet file ({error})") from error
    if source.text_column not in table.schema_arrow.names:
        columns = ", ".join(table.schema_arrow.names)
        raise Problem(f"{path}: has no column {source.text_column!r}; set data.source.text_column to one of: {columns}")
    try:
        for batch in table.iter_batches(batch_size=256, columns=[source.text_column]):
            for row in batch.column(0):
                text = row.as_py()
                if text is not None and not isinstance(text, str):
                    raise Problem(f"{path}: column {source.text_column!r} holds {row.type}, not text")
                yield text or ""
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise Problem(f"{path}: column {source.text_column!r} cannot be read ({error}); the file may be cut off") from error


def _read_jsonl(path: Path, source: Files) -> Iterator[str]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                record = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise Problem(f"{where}: is not UTF-8 ({error.reason} at byte {error.start} of the line)") from error
            except json.JSONDecodeError as error:
                raise Problem(f"{where}: is not JSON ({error})") from error
            text = record.get(source.text_column) if isinstance(record, dict) else None
            if not isinstance(text, str):
                raise Problem(f"{where}: has no text under {source.text_column!r}; set data.source.text_column")
            if any("\ud800" <= letter <= "\udfff" for letter in text):
                raise Problem(f"{where}: holds half a surrogate pair, which is no character")
            yield text


def _read_txt(path: Path, source: Files) -> Iterator[str]:
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise Problem(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from error
    yield from (text.split(source.separator) if source.separator else [text])


def _stream_hub(source: Hub) -> Iterator[str]:
    go_offline_if_unreachable()
    import datasets

    datasets.disable_progress_bars()
    try:
        rows = datasets.load_dataset(source.name, source.config, split=source.split, revision=source.revision, streaming=True)
        for row in rows:
            if source.text_column not in row:
                raise Problem(f"{source.name}: has no column {source.text_column!r}; there are {', '.join(row)}")
            yield row[source.text_column] or ""
    except Problem:
        raise
    except Exception as error:  # connection, DNS, proxy, missing dataset or revision: many classes, one meaning
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Problem(
            f"{source.name} ({source.config}, revision {source.revision}) cannot be streamed: {reason}. Without a network, "
            "data=stories (the embedded corpus) and data=files with data.source.paths=[...] run"
        ) from error
