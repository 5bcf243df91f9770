"""Notes to standard error: what a user should know and did not ask for."""

from __future__ import annotations

import sys
from contextlib import suppress


def tell(line: str) -> None:
    """Print a line to standard error; where that cannot be written, texts are no worse for it."""
    with suppress(OSError):
        print(line, file=sys.stderr)


def say_note(note: str) -> None:
    """Print a note to standard error."""
    tell(f"note: {note}")
