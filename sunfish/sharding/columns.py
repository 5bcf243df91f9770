"""Columns that a source's filters ask for and no record seems to have: a slip of the pen, most often."""

from __future__ import annotations

import json
import sys
from itertools import islice

from sunfish.config.convert import nearest
from sunfish.config.schema.sources import Source
from sunfish.documents import Record, Span
from sunfish.sharding.filters import columns_of
from sunfish.sharding.find import kind_of
from sunfish.sharding.streams import open_file

SPANS, RECORDS = 8, 128  # that are looked at, and of each span


def note_missing_columns(name: str, source: Source, spans: list[Span]) -> None:
    """Say which columns are null in every record of a sample; sharding goes on: others may have them."""
    wanted = columns_of(source)
    if not wanted:
        return
    chosen = spans[:: -(-len(spans) // SPANS)]
    records = [record for span in chosen for record in islice(source.read(span), RECORDS)]
    there = [record for record in records if isinstance(record, Record)]
    for column in wanted:
        if there and all(record.columns.get(column) is None for record in there):
            names = _names(chosen[0])
            asked = f"none of the first {len(there):,} records has a {column!r}, which is asked for"
            hint = nearest(column, names) if names else ""
            print(f"note: data.sources.{name}: {asked}; it counts as null{hint}", file=sys.stderr)


def _names(span: Span) -> list[str]:
    """Return the names in a file's first line, if it is a JSON record."""
    kind = kind_of(span.path)
    if kind is None or kind.format != "jsonl":
        return []
    with open_file(span.path, span.size) as file:
        try:
            record = json.loads(file.readline())
        except ValueError:
            return []
    return list(record) if isinstance(record, dict) else []
