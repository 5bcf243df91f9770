"""A span of a file -> records: the texts that begin in it, and the columns that filters ask for.

A line, a row group or a document belongs to the span in which its first byte lies, so spans may be cut
anywhere. Whatever goes wrong with a record or a file is an `Unreadable` with its place."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from sunfish.config.schema.sources import Columns
from sunfish.documents import Record, Span, Unreadable, reason_of
from sunfish.errors import UserError
from sunfish.printable import printable
from sunfish.sharding.filters import columns_of
from sunfish.sharding.find import kind_of
from sunfish.sharding.parquet import read_parquet
from sunfish.sharding.streams import DamagedFile, open_file
from sunfish.sharding.text_files import read_txt

CHUNK_BYTES = 2**20
MAX_RECORD_BYTES = 2**28  # one line or one document: what a worker can hold beside the rest
WHITE_SPACE = re.compile(r"[ \t\r\n,]*")
_MISSING = object()


def read_span(source: Columns, span: Span) -> Iterator[Record | Unreadable]:
    """Yield a span's records, in order, with the columns that the source's filters ask for.

    Raises:
        UserError: what another file would not mend: a column that is not there, a server that is not reached.
    """
    kind, last = kind_of(span.path), ""
    assert kind is not None, span.path
    try:
        for record in READERS[kind.format](source, span):
            last = f", behind {record.where}" if isinstance(record, Record) else last
            yield record
    except UserError:
        raise
    except DamagedFile as error:
        yield Unreadable(f"{span.path}: {error}{last}")
    except MemoryError:
        raise
    except Exception as error:  # of whatever library: the file is lost from here on, the run is not
        yield Unreadable(f"{span.path}: cannot be read ({type(error).__name__}: {reason_of(error)}){last}")


def _read_lines(source: Columns, span: Span) -> Iterator[Record | Unreadable]:
    with open_file(span.path, span.size) as file:
        at = 0
        if span.start:  # the line that begins before the span is another's
            file.seek(span.start - 1)
            at = span.start - 1 + _skip_line(file)
        yield from _lines(source, span, file, at)


def _lines(source: Columns, span: Span, file: BinaryIO, at: int) -> Iterator[Record | Unreadable]:
    kind = kind_of(span.path)
    first, number, columns = at, 0, columns_of(source)
    while at < span.stop or (kind is not None and not kind.is_divisible):
        line, size = _next_line(file)
        if not line:
            return
        place, at, number = at, at + size, number + 1
        if not line.strip():
            continue
        found = _parse(line, source.text_column, columns)
        del line  # a long one is not held beside its text
        if isinstance(found, str):
            yield Unreadable(f"{span.path}, line {number + _lines_before(span, first)}: {found}")
        else:
            where = f"line {number}" if first == 0 else f"line at byte {place}"
            yield Record(*found, f"{span.path}, {where}")


def _next_line(file: BinaryIO) -> tuple[bytes, int]:
    """Return a line and its bytes in the file; of one that is too long a beginning that will not parse."""
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
    count = 0
    if at:
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
    except ValueError:  # a number of more digits than Python reads
        record = json.loads(line, parse_int=_whole_number)
    except Exception as error:
        return f"cannot be read ({type(error).__name__}: {reason_of(error)})"
    return _text_and_columns(record, text_column, columns)


def _whole_number(digits: str) -> float:
    """Return an integer; one of more digits than Python reads as a float."""
    try:
        return int(digits)
    except ValueError:
        return float(digits)


def _text_and_columns(record: Any, text_column: str, columns: list[str]) -> tuple[str, dict[str, Any]] | str:
    """Return a record's text and columns, or what is wrong with it; a column that is not there is null."""
    if not isinstance(record, dict):
        advice = "; one array of records is read from a file that ends in .json"
        says = f"holds {type(record).__name__} {record!r:.40}, no record with a text"
        return says + advice * isinstance(record, list)
    text = _value_at(record, text_column)
    if text is None or text_column in columns:
        text = text if isinstance(text, str) else ""
    if not isinstance(text, str):
        there = printable(", ".join(record))
        holds = "has no text" if text is _MISSING else f"holds {type(text).__name__}, no text,"
        return f"{holds} under {text_column!r}; there are {there}; set the source's text_column"
    values = {name: _value_at(record, name) for name in columns}
    return text, {name: None if value is _MISSING else value for name, value in values.items()}


def _value_at(record: dict[str, Any], path: str) -> Any:
    """Return the value of a key, or, where there is none of that name, of a dotted path."""
    if path in record:
        return record[path]
    head, dot, rest = path.partition(".")
    inner = record.get(head, _MISSING) if dot else _MISSING
    if inner is None:
        return None
    return _value_at(inner, rest) if isinstance(inner, dict) else _MISSING


def _read_json(source: Columns, span: Span) -> Iterator[Record | Unreadable]:
    """Read a .json file: one array of records, or JSON lines."""
    with open_file(span.path, span.size) as file:
        beginning: bytes = file.peek(CHUNK_BYTES)  # type: ignore[attr-defined]
        if beginning.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] != b"[":
            yield from _lines(source, span, file, 0)
            return
        columns = columns_of(source)
        for number, item in enumerate(_items(file)):
            where = f"{span.path}, item {number}"
            found = _text_and_columns(item, source.text_column, columns)
            yield Unreadable(f"{where}: {found}") if isinstance(found, str) else Record(*found, where)


def _items(file: BinaryIO) -> Iterator[Any]:
    """Yield the items of a JSON array, a piece of it in memory at a time."""
    decoder = json.JSONDecoder(parse_int=_whole_number)
    reader = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape")
    rest = reader.read(CHUNK_BYTES).lstrip()
    at = 1
    while True:
        at = _behind_space(rest, at)
        try:
            if rest[at : at + 1] == "]":
                return
            item, at = decoder.raw_decode(rest, at)
        except json.JSONDecodeError as error:
            more = reader.read(max(CHUNK_BYTES, len(rest) - at))
            if not more or len(rest) - at > MAX_RECORD_BYTES:
                says = f"is not a JSON array to its end ({error.msg}); it may be cut off"
                raise DamagedFile(says) from error
            rest, at = rest[at:] + more, 0
            continue
        yield item


def _behind_space(text: str, at: int) -> int:
    found = WHITE_SPACE.match(text, at)
    return found.end() if found else at


READERS = {"parquet": read_parquet, "jsonl": _read_lines, "json": _read_json, "txt": read_txt}
