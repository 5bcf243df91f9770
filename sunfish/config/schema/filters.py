"""Which documents of a source are kept: rules on their text and columns, and limits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sunfish.errors import require


@dataclass(frozen=True, kw_only=True)
class Values:
    """Keep documents whose column holds one of some values, such as language: en."""

    kind: Literal["values"]
    column: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        require(len(self.values) > 0, "values", "must name at least one value, or nothing would be kept")


@dataclass(frozen=True, kw_only=True)
class Range:
    """Keep documents whose column is a number from min to max, such as language_score from 0.65."""

    kind: Literal["range"]
    column: str
    min: float | None
    max: float | None

    def __post_init__(self) -> None:
        _require_order(self.min, self.max)


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """Keep documents in whose column a regular expression is found, or with `keep: false` all others."""

    kind: Literal["pattern"]
    column: str
    pattern: str
    keep: bool

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            require(False, "pattern", f"is no regular expression ({error})")


@dataclass(frozen=True, kw_only=True)
class Length:
    """Keep documents whose text has min to max characters."""

    kind: Literal["length"]
    min: int | None
    max: int | None

    def __post_init__(self) -> None:
        _require_order(self.min, self.max)


def _require_order(low: float | None, high: float | None) -> None:
    require(low is not None or high is not None, "min", "or max must be set, or the filter keeps everything")
    ordered = low is None or high is None or low <= high
    require(ordered, "max", f"must not be below min = {low}, or nothing would be kept")


Filter = Values | Range | Pattern | Length


class Selection(NamedTuple):
    """Which of a source's documents are kept; by default all, and what cannot be read ends the run."""

    filters: tuple[Filter, ...] = ()
    url_column: str | None = None
    skip_unreadable: bool = False
    max_documents: int | None = None
    max_tokens: int | None = None
    columns: tuple[str, ...] = ()  # that are read beside the text, whatever they hold
