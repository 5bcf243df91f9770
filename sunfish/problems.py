"""Problems that a person can mend: one sentence at the command line, no traceback."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Problem(ValueError):
    """Something the user can put right; the message says what, where and what to do."""


def report_problems(command: Callable[P, R]) -> Callable[P, R]:
    """Make a command say a `Problem` in one line and exit with code 1."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except Problem as problem:
            print(f"error: {problem}", file=sys.stderr)
            sys.exit(1)

    return wrapped
