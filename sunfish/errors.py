"""Problems that a person can mend: one sentence at the command line, no traceback."""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class UserError(ValueError):
    """Something the user can put right; the message says what, where and what to do."""


class InvalidValue(ValueError):
    """Raised by a section about one of its keys; its reader adds the file, the section and the value."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key} {reason}")
        self.key, self.reason = key, reason


def require(holds: bool, key: str, reason: str) -> None:
    """Refuse a section's value: `require(num_heads > 0, "num_heads", "must be at least 1")`."""
    if not holds:
        raise InvalidValue(key, reason)


class Bound(NamedTuple):
    """What a value must be, and how a message says so."""

    holds: Callable[[Any], bool]
    reason: str


AT_LEAST_1 = Bound(lambda value: value >= 1, "must be at least 1")
AT_LEAST_1_OR_NULL = Bound(lambda value: value is None or value >= 1, "must be at least 1, or null")
ABOVE_0 = Bound(lambda value: value > 0, "must be above 0")
NOT_NEGATIVE = Bound(lambda value: value >= 0, "must not be negative")
SHARE = Bound(lambda value: 0 <= value <= 1, "must lie between 0 and 1")


def require_each(section: object, bound: Bound, *keys: str) -> None:
    """Refuse the first of a section's values that its bound does not hold for."""
    for key in keys:
        require(bound.holds(getattr(section, key)), key, bound.reason)


def report_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Make a command say a `UserError` in one line and exit with 1; with 130 where it is interrupted."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except UserError as problem:
            print(f"error: {problem}", file=sys.stderr)
            sys.exit(1)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)
        except OSError as problem:
            _leave_output(problem)
            sys.exit(1)

    return wrapped


def _leave_output(problem: OSError) -> None:
    """Give standard output up where it is closed, quietly, or full, in one line; raise all else."""
    if problem.filename is not None or problem.errno not in (errno.EPIPE, errno.ENOSPC):
        raise problem
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes what is left once more as it ends
    if problem.errno == errno.ENOSPC:
        print(f"error: {problem.strerror}, on standard output or a disk", file=sys.stderr)
