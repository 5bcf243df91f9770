"""Modules of the user's own that add samplers, schedules, objectives, sources or metrics."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from sunfish.errors import UserError


def load_plugins(names: Iterable[str]) -> None:
    """Import each module; what it adds to a registry can be named from then on.

    Raises:
        UserError: a module cannot be imported.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            reason = f"cannot be imported ({type(error).__name__}: {error})"
            raise UserError(f"plugin {name!r} {reason}; it must lie on the Python path") from error
