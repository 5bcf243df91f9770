"""Committed results as tables in Markdown, and pages that hold them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

RENAMED = {"calls_per_text": "calls", "corrected_per_text": "corrected"}  # in files of other pipelines

Read = Callable[[str], str]  # a path in the project -> its text
Row = dict[str, Any]


def read_optional(read: Read, name: str) -> Row | None:
    """Return a file of a pipeline of its own, or None if it has not run since the default changed."""
    try:
        return json.loads(read(name))
    except FileNotFoundError:
        return None


def fill(page: str, name: str, text: str) -> str:
    """Return a page with `text` between the markers of this name."""
    marked = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", re.DOTALL)
    return marked.sub(lambda found: found[1] + text + found[2], page)


def columns(rows: dict[str, Row], shown: dict[str, tuple[str, str]]) -> str:
    """Return rows of the `shown` figures, by title: key and form; nothing where a row does not say."""
    lines = ["| | " + " | ".join(shown) + " |", "|---|" + "---|" * len(shown)]
    for label, row in rows.items():
        lines.append(f"| {label} | " + " | ".join(cell(row, *each) for each in shown.values()) + " |")
    return "\n".join(lines)


def cell(row: Row, key: str, form: str) -> str:
    """Return one figure."""
    value = row.get(key, row.get(RENAMED.get(key, key)))
    if (
        value is None
        or (key == "seconds_per_text" and value == 0)
        or (key == "calls_per_text" and value == 0)
    ):
        return ""
    return f"{1000 * value:,.0f}" if form == "ms" else format(value, form)


def grid(rows: dict[str, Row], form: str) -> str:
    """Return rows of numbers with all their columns."""
    keys = list(dict.fromkeys(key for row in rows.values() for key in row))
    lines = ["| | " + " | ".join(key.replace("_", " ") for key in keys) + " |", "|---|" + "---|" * len(keys)]
    for name, row in rows.items():
        lines.append(
            f"| {name} | " + " | ".join(format(row[key], form) if key in row else "" for key in keys) + " |"
        )
    return "\n".join(lines)
