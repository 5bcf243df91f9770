"""A span of a file -> records: the texts that begin in it, and the columns that filters ask for.

A line, a row group or a document belongs to the span in which its first byte lies, so spans may be cut
anywhere."""

from __future__ import annotations

import codecs
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

from sunfish.config.schema.data import Files, Hub, Source, Stories
from sunfish.errors import UserError
from sunfish.sharding.remote import open_file, reason_of, suffix_of
from sunfish.text.lexicon import GRAMMARS
from sunfish.text.stories import write_stories

DIVISIBLE = (".parquet", ".jsonl")  # others are read from their beginning
ROWS_AT_ONCE = 64
CHUNK_BYTES = 2**20
MAX_RECORD_BYTES = 2**28  # one line or one document: what a worker can hold beside the rest


@dataclass(frozen=True)
class Span:
    """Bytes start to stop of a file; of the stories, which are no file, documents."""

    path: str
    size: int
    start: int
    stop: int


@dataclass(frozen=True)
class Record:
    """One document as its source has it."""

    text: str
    columns: dict[str, Any]
    where: str


@dataclass(frozen=True)
class Unreadable:
    """Records that are lost, and why; the message says where."""

    reason: str
    count: int = 1


def read_span(source: Source, span: Span, columns: list[str]) -> Iterator[Record | Unreadable]:
    """Yield a span's records, in order, with the values of `columns`.

    Raises:
        UserError: a column that is not there, a file that cannot be opened.
    """
    if isinstance(source, Stories):
        stories = islice(
            write_stories(source.seed, span.start, GRAMMARS[source.grammar]), span.stop - span.start
        )
        yield from (Record(text, {}, f"story {number}") for number, text in enumerate(stories, span.start))
    elif suffix_of(span.path) == ".parquet":
        yield from _read_parquet(source, span, columns)
    elif suffix_of(span.path).startswith(".jsonl"):
        yield from _read_jsonl(source, span, columns)
    else:
        yield from _read_txt(source, span)


def _read_parquet(source: Files | Hub, span: Span, columns: list[str]) -> Iterator[Record | Unreadable]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_file(span.path, span.size) as file:
        try:
            table = pq.ParquetFile(file, buffer_size=CHUNK_BYTES)
        except (pa.ArrowException, OSError) as error:
            yield Unreadable(f"{span.path}: is not a readable parquet file ({reason_of(error)})")
            return
        _require_columns(span.path, table.schema_arrow, source.text_column, columns)
        row = 0
        for group in range(table.num_row_groups):
            metadata, first = table.metadata.row_group(group), row
            row += metadata.num_rows
            if not span.start <= _offset(metadata) < span.stop:
                continue
            done = 0
            try:
                for batch in table.iter_batches(
                    ROWS_AT_ONCE, [group], [source.text_column, *columns], use_threads=False
                ):
                    for record in _rows(batch, source.text_column, span.path, first + done):
                        done += 1
                        yield record
            except (pa.ArrowException, OSError) as error:
                lost = metadata.num_rows - done
                yield Unreadable(
                    f"{span.path}: rows {first + done} to {row - 1} cannot be read ({reason_of(error)})", lost
                )


def _offset(row_group: Any) -> int:
    """Return where a row group begins in its file."""
    column = row_group.column(0)
    return int(column.dictionary_page_offset or column.data_page_offset)


def _require_columns(path: str, schema: Any, text_column: str, columns: list[str]) -> None:
    import pyarrow as pa

    for name in (text_column, *columns):
        if name not in schema.names:
            setting = "text_column" if name == text_column else "filters"
            raise UserError(
                f"{path}: has no column {name!r}; set the source's {setting} to one of: {', '.join(schema.names)}"
            )
    kind = schema.field(text_column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_null(kind)
    ):
        raise UserError(f"{path}: column {text_column!r} holds {kind}, not text")


def _rows(batch: Any, text_column: str, path: str, first: int) -> Iterator[Record | Unreadable]:
    names = batch.schema.names
    values = [[_value(item) for item in batch.column(name)] for name in names]
    for number, row in enumerate(zip(*values, strict=True), first):
        columns = dict(zip(names, row, strict=True))
        text = columns.pop(text_column)
        if isinstance(text, UnicodeDecodeError):
            yield Unreadable(f"{path}: row {number} is not UTF-8 ({text.reason} at byte {text.start})")
        else:
            yield Record(text or "", columns, f"{path}: row {number}")


def _value(item: Any) -> Any:
    try:
        return item.as_py()
    except UnicodeDecodeError as error:
        return error


def _read_jsonl(source: Files | Hub, span: Span, columns: list[str]) -> Iterator[Record | Unreadable]:
    with open_file(span.path, span.size) as file:
        at = 0
        if span.start:  # the line that begins before the span is another's
            file.seek(span.start - 1)
            at = span.start - 1 + _skip_line(file)
        first, number = at, 0
        whole = suffix_of(span.path) not in DIVISIBLE
        while whole or at < span.stop:
            try:
                line, size = _next_line(file)
            except (OSError, EOFError, ValueError, zlib.error) as error:
                if isinstance(error, UserError):
                    raise
                yield Unreadable(
                    f"{span.path}: cannot be decompressed behind line {number} ({reason_of(error)}); it may be cut off"
                )
                return
            if not line:
                return
            place, at, number = at, at + size, number + 1
            found = _parse(line, source.text_column, columns) if line.strip() else None
            del line  # a long one is not held beside its text
            if found is not None:
                if isinstance(found, str):
                    yield Unreadable(f"{span.path}, line {number + _lines_before(span, first)}: {found}")
                else:
                    yield Record(
                        *found,
                        f"{span.path}, line {number}" if first == 0 else f"{span.path}, line at byte {place}",
                    )


def _next_line(file: BinaryIO) -> tuple[bytes, int]:
    """Return a line and its bytes in the file; of one that is too long the beginning, which will not
    parse.
    """
    line = file.readline(MAX_RECORD_BYTES)
    if len(line) == MAX_RECORD_BYTES and not line.endswith(b"\n"):
        return line[:100] + b" ... is longer than a record may be", len(line) + _skip_line(file)
    return line, len(line)


def _skip_line(file: BinaryIO) -> int:
    """Read to the end of a line and return how many bytes that were."""
    skipped = 0
    while part := file.readline(CHUNK_BYTES):
        skipped += len(part)
        if part.endswith(b"\n"):
            break
    return skipped


def _lines_before(span: Span, at: int) -> int:
    """Count the lines before a place in a file, for a message."""
    count = 0
    with open_file(span.path, span.size) as file:
        while at > 0 and (chunk := file.read(min(CHUNK_BYTES, at))):
            count, at = count + chunk.count(b"\n"), at - len(chunk)
    return count


def _parse(line: bytes, text_column: str, columns: list[str]) -> tuple[str, dict[str, Any]] | str:
    """Return a line's text and columns, or what is wrong with it."""
    try:
        record = json.loads(line)
    except UnicodeDecodeError as error:
        return f"is not UTF-8 ({error.reason} at byte {error.start} of the line)"
    except (json.JSONDecodeError, RecursionError) as error:
        return f"is not JSON ({error}); it may be cut off"
    text = record.get(text_column) if isinstance(record, dict) else None
    if text is None and isinstance(record, dict) and text_column in record:
        text = ""
    if not isinstance(text, str):
        there = f"; there are {', '.join(map(str, record))}" if isinstance(record, dict) else ""
        return f"has no text under {text_column!r}{there}; set the source's text_column"
    missing = [name for name in columns if name not in record]
    if missing:
        return f"has no {missing[0]!r}, which a filter asks for; there are {', '.join(map(str, record))}"
    return text, {name: record[name] for name in columns}


def _read_txt(source: Source, span: Span) -> Iterator[Record | Unreadable]:
    separator = source.separator if isinstance(source, Files) else None
    rest, number = "", 0
    with open_file(span.path, span.size) as file:
        decoder, at = codecs.getincrementaldecoder("utf-8")(), 0
        while True:
            try:
                chunk = file.read(CHUNK_BYTES)
                pending = len(decoder.getstate()[0])
                rest += decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                reason = f"is not UTF-8 text ({error.reason} at byte {at - pending + error.start})"
                yield Unreadable(f"{span.path}: {reason}; what stands behind it is lost")
                return
            except (OSError, EOFError, zlib.error) as error:
                yield Unreadable(
                    f"{span.path}: cannot be decompressed behind byte {at} ({reason_of(error)}); it may be cut off"
                )
                return
            at += len(chunk)
            if separator is not None and separator in rest:
                *documents, rest = rest.split(separator)
                for text in documents:
                    yield Record(text, {}, f"{span.path}: document {number}")
                    number += 1
            if len(rest) > MAX_RECORD_BYTES:
                yield Unreadable(
                    f"{span.path}: document {number} is longer than {MAX_RECORD_BYTES:,} characters; is `separator` right?"
                )
                return
            if not chunk:
                break
    yield Record(rest, {}, f"{span.path}: document {number}")
