"""Which documents are kept: rules on their text and columns; drops are counted under each rule's name."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from sunfish.config.schema.filters import Filter, Length, Pattern, Range, Values
from sunfish.config.schema.sources import Source
from sunfish.documents import Record

Rule = Callable[[Record], bool]

UNREADABLE, EMPTY = "unreadable", "empty"  # what is dropped without a filter


def columns_of(source: Source) -> list[str]:
    """Return the columns that are read beside the text, each once."""
    selection = source.selection()
    columns = [*selection.columns]
    columns += [rule.column for rule in selection.filters if not isinstance(rule, Length)]
    return list(dict.fromkeys([*columns, selection.url_column] if selection.url_column else columns))


def rules_of(source: Source) -> dict[str, Rule]:
    """Return a source's rules by name, in order; a document is counted under the first that drops it."""
    rules: dict[str, Rule] = {EMPTY: lambda record: bool(record.text.strip())}
    for rule in source.selection().filters:
        name = "length" if isinstance(rule, Length) else rule.column
        number = sum(key == name or key.startswith(f"{name} ") for key in rules)
        rules[f"{name} {number + 1}" if number else name] = _rule(rule)
    return rules


def is_enough(source: Source, documents: int, tokens: int) -> bool:
    """Say whether so many documents and tokens reach a source's limits: what follows is not wanted."""
    selection = source.selection()
    limits = ((documents, selection.max_documents), (tokens, selection.max_tokens))
    return any(limit is not None and number >= limit for number, limit in limits)


def _rule(rule: Filter) -> Rule:
    if isinstance(rule, Values):
        return lambda record: record.columns.get(rule.column) in rule.values
    if isinstance(rule, Pattern):
        pattern = re.compile(rule.pattern)
        return lambda record: bool(pattern.search(str(record.columns.get(rule.column) or ""))) == rule.keep
    if isinstance(rule, Range):
        return lambda record: _within(_number(record, rule.column), rule.min, rule.max)
    return lambda record: _within(len(record.text), rule.min, rule.max)


def _within(value: float | None, low: float | None, high: float | None) -> bool:
    return value is not None and (low is None or value >= low) and (high is None or value <= high)


def _number(record: Record, column: str) -> float | None:
    value: Any = record.columns.get(column)
    value = float(value) if isinstance(value, Decimal) else value  # 0.10 is no less than 0.1
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError(f"{column!r} holds {value!r:.40}, no number, but a range filter asks for it")
    return value
