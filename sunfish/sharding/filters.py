"""Which documents are kept: rules on their text and columns, each with a name under which its drops are
counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sunfish.config.schema.data import Filter, Length, Pattern, Range, Stories, Values
from sunfish.config.schema.data import Source as AnySource
from sunfish.errors import UserError
from sunfish.sharding.readers import Record

Rule = Callable[[Record], bool]

UNREADABLE, EMPTY = "unreadable", "empty"  # what is dropped without a filter


def columns_of(source: AnySource) -> list[str]:
    """Return the columns that are read beside the text, each once."""
    if isinstance(source, Stories):
        return []
    columns = [rule.column for rule in source.filters if not isinstance(rule, Length)]
    return list(dict.fromkeys([*columns, source.url_column] if source.url_column else columns))


def rules_of(source: AnySource) -> dict[str, Rule]:
    """Return a source's rules by name, in order; a document is counted under the first that drops it."""
    rules: dict[str, Rule] = {EMPTY: lambda record: bool(record.text.strip())}
    for rule in () if isinstance(source, Stories) else source.filters:
        name = "length" if isinstance(rule, Length) else rule.column
        number = sum(key == name or key.startswith(f"{name} ") for key in rules)
        rules[f"{name} {number + 1}" if number else name] = _rule(rule)
    return rules


def is_enough(source: AnySource, documents: int, tokens: int) -> bool:
    """Say whether so many documents and tokens, a source's first or a task's own, reach its limits: what
    follows is not wanted.
    """
    if isinstance(source, Stories):
        return False
    limits = ((documents, source.max_documents), (tokens, source.max_tokens))
    return any(limit is not None and number >= limit for number, limit in limits)


def _rule(rule: Filter) -> Rule:
    if isinstance(rule, Values):
        return lambda record: record.columns[rule.column] in rule.values
    if isinstance(rule, Pattern):
        pattern = re.compile(rule.pattern)
        return lambda record: (
            (pattern.search(str(record.columns[rule.column] or "")) is not None) == rule.keep
        )
    if isinstance(rule, Range):
        return lambda record: _within(_number(record, rule.column), rule.min, rule.max)
    return lambda record: _within(len(record.text), rule.min, rule.max)


def _within(value: float | None, low: float | None, high: float | None) -> bool:
    return value is not None and (low is None or value >= low) and (high is None or value <= high)


def _number(record: Record, column: str) -> float | None:
    value: Any = record.columns[column]
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise UserError(
            f"{record.where}: {column!r} holds {value!r}, no number, but a range filter asks for it"
        )
    return value
