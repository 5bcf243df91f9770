"""Text of any model or data made safe to look at."""

from __future__ import annotations


def printable(text: str, newlines: bool = False) -> str:
    """Return text with escapes for control, surrogate and unassigned characters; `newlines` may stay."""
    return "".join(c if c.isprintable() or (newlines and c == "\n") else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
