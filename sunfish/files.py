"""Writing so that nothing is ever half written: a temporary name beside the target, then a rename."""

from __future__ import annotations

import glob
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sunfish.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path (a file or a folder to be made) that takes `path`'s place when the block ends
    well.

    Raises:
        UserError: the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        yield temporary
        if temporary.is_dir() and path.is_dir():
            shutil.rmtree(path)
        temporary.replace(path)
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(str(path.parent)):
            raise
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); choose another folder or free it"
        ) from error
    finally:
        _remove(temporary)


def _remove_leftovers(path: Path) -> None:
    """Remove what processes left beside `path` that were killed while they wrote it."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        writer = leftover.name.split(".")[-2]
        if writer.isdecimal() and not Path(f"/proc/{writer}").exists():
            _remove(leftover)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()


def require_writable(path: Path) -> None:
    """Find out before the work, not after it, whether `path` can be written."""
    with replacing(path.with_name(f".{path.name}.probe")) as probe:
        probe.touch()
    path.with_name(f".{path.name}.probe").unlink()


def write_text(path: Path, text: str) -> None:
    """Write text whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON, indented, keys in the order given, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({error}); it may be cut off or altered") from error


def project_root() -> Path:
    """Return the project's folder: DVC's root where DVC runs us (also inside its temporary copies), else the
    current one.
    """
    return Path(os.environ.get("DVC_ROOT") or ".").resolve()
