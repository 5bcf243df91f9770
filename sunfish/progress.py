"""Show long work: a bar on a terminal, a plain line now and then elsewhere; rate and time left in both."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Count units of work towards a total (None: unknown); `say` prints a line without breaking the bar.

    Everything goes to standard error, so that standard output stays for results."""

    def __init__(self, what: str, total: int | None, unit: str, done: int = 0, shown: bool = True) -> None:
        self.what, self.total, self.unit, self.done, self.first = what, total, unit, done, done
        self.started = self.last_line = time.monotonic()
        self.note = ""
        self.bar: Any = None
        self.shown = shown
        if shown and sys.stderr.isatty():
            from tqdm import tqdm

            look = {"dynamic_ncols": True, "leave": False}
            self.bar = tqdm(desc=what, total=total, unit=f" {unit}", initial=done, **look)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
        elif time.monotonic() - self.started > SECONDS_BETWEEN_LINES:
            self._print()

    def add(self, count: int = 1, note: str = "") -> None:
        """Count `count` more units; `note` stands behind the rate."""
        self.done, self.note = self.done + count, note or self.note
        if self.bar is not None:
            self.bar.set_postfix_str(self.note, refresh=False)
            self.bar.update(count)
        elif time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self._print()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self.bar is not None:
            self.bar.write(text, file=sys.stderr)
        elif self.shown:
            print(text, file=sys.stderr, flush=True)

    def _print(self) -> None:
        if not self.shown:
            return
        self.last_line = time.monotonic()
        rate = (self.done - self.first) / max(self.last_line - self.started, 1e-9)
        of = f"/{self.total:,}" if self.total else ""
        left = f", {clock((self.total - self.done) / rate)} left" if self.total and rate > 0 else ""
        note = f", {self.note}" if self.note else ""
        line = f"{self.what}: {self.done:,}{of} {self.unit} ({rate:,.1f}/s{left}){note}"
        print(line, file=sys.stderr, flush=True)


def track(items: Iterable[T], what: str, unit: str, total: int | None = None) -> Iterator[T]:
    """Yield `items`, showing how far we are."""
    with Progress(what, total, unit) as progress:
        for item in items:
            yield item
            progress.add()


def clock(seconds: float) -> str:
    """Return a duration as people read it: 5:07, 1:02:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
