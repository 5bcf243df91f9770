"""Parquet files -> records, a few rows in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sunfish.config.schema.sources import Columns
from sunfish.documents import Record, Span, Unreadable, reason_of
from sunfish.errors import UserError
from sunfish.sharding.filters import columns_of
from sunfish.sharding.streams import DamagedFile, open_file

ROWS_AT_ONCE = 64
BUFFER_BYTES = 2**20

Path = tuple[str, ...]  # of a column: its name, and those of the fields in it


def read_parquet(source: Columns, span: Span) -> Iterator[Record | Unreadable]:
    """Read the row groups that begin in a span."""
    import pyarrow.parquet as pq

    with open_file(span.path, span.size) as file:
        try:
            table = pq.ParquetFile(file, buffer_size=BUFFER_BYTES, page_checksum_verification=True)
        except UserError:
            raise
        except Exception as error:
            raise DamagedFile(f"is not a readable parquet file ({reason_of(error)})") from error
        columns = _find_columns(source, span.path, table.schema_arrow)
        row = 0
        for group in range(table.num_row_groups):
            metadata, first = table.metadata.row_group(group), row
            row += metadata.num_rows
            if span.start <= _offset(metadata) < span.stop:
                yield from _read_group(table, group, (first, row), columns, span.path)


def _read_group(
    table: Any, group: int, rows: tuple[int, int], columns: dict[str, Path], file: str
) -> Iterator[Record | Unreadable]:
    """Read a row group; what is lost is counted in rows."""
    done = rows[0]
    names = [".".join(path) for path in columns.values()]
    try:
        for batch in table.iter_batches(ROWS_AT_ONCE, [group], list(dict.fromkeys(names)), use_threads=False):
            for record in _records(batch, columns, file, done):
                done += 1
                yield record
    except UserError:
        raise
    except Exception as error:
        reason = f"{file}: rows {done} to {rows[1] - 1} cannot be read ({reason_of(error)})"
        yield Unreadable(reason, rows[1] - done)


def _offset(row_group: Any) -> int:
    column = row_group.column(0)
    return int(column.dictionary_page_offset or column.data_page_offset)


def _find_columns(source: Columns, file: str, schema: Any) -> dict[str, Path]:
    """Return where the text, under "", and the filters' columns stand; one of URLs may be missing."""
    found: dict[str, Path] = {}
    filtered = [rule.column for rule in source.filters if hasattr(rule, "column")]
    for name in (source.text_column, *columns_of(source)):
        path = _path_of(schema, name)
        if path:
            found["" if not found else name] = path
        elif not found or name != source.url_column or name in filtered:
            setting = source.setting_of(name)
            there = ", ".join(schema.names)
            raise UserError(f"{file}: has no column {name!r}; set the source's {setting} to one of: {there}")
    if source.text_column not in columns_of(source):
        _require_text(file, source.text_column, schema, found[""])
    return found


def _path_of(schema: Any, name: str) -> Path:
    """Return the path of a column: of this very name, or, where there is none, of a field in a struct."""
    import pyarrow as pa

    if name in schema.names:
        return (name,)
    head, *rest = name.split(".")
    kind = schema.field(head).type if head in schema.names else None
    for part in rest:
        if kind is None or not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
            return ()
        kind = kind.field(part).type
    return (head, *rest) if kind is not None else ()


def _require_text(file: str, name: str, schema: Any, path: Path) -> None:
    import pyarrow.types as types

    kind = schema.field(path[0]).type
    for part in path[1:]:
        kind = kind.field(part).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    texts = (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    if not any(is_kind(kind) for is_kind in texts):
        raise UserError(f"{file}: column {name!r} holds {kind}, not text")


def _records(batch: Any, columns: dict[str, Path], file: str, first: int) -> Iterator[Record | Unreadable]:
    values = {name: [_value(item) for item in _column(batch, path)] for name, path in columns.items()}
    for index in range(batch.num_rows):
        text, where = values[""][index], f"{file}: row {first + index}"
        if isinstance(text, UnicodeDecodeError):
            yield Unreadable(f"{where} is not UTF-8 ({text.reason} at byte {text.start})")
        elif isinstance(text, Exception):
            yield Unreadable(f"{where} cannot be read ({reason_of(text)})")
        else:
            others = {name: of[index] for name, of in values.items() if name}
            others = {name: None if isinstance(of, Exception) else of for name, of in others.items()}
            yield Record(text or "", others, where)


def _column(batch: Any, path: Path) -> Any:
    import pyarrow.compute as pc

    column = batch.column(path[0])
    for part in path[1:]:
        column = pc.struct_field(column, part)
    return column


def _value(item: Any) -> Any:
    try:
        return item.as_py()
    except Exception as error:  # no UTF-8, a time that Python does not know
        return error
