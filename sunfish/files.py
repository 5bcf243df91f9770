"""Writing so that nothing is ever half written: a temporary name beside the target, then a rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sunfish.errors import UserError

REMEMBERED_BYTES = 2**20  # smaller files are read again each time


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that takes `path`'s place when the block ends well.

    Raises:
        UserError: the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{_host()}-{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        yield temporary
        if temporary.is_dir() and path.is_dir():
            shutil.rmtree(path)
        temporary.replace(path)
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(str(path.parent)):
            raise
        says = f"{path}: cannot be written ({error.strerror})"
        raise UserError(f"{says}; choose another folder or free it") from error
    finally:
        _remove(temporary)


def sweep(folder: Path) -> None:
    """Remove what processes of this machine left in a folder that were killed while they wrote there."""
    for leftover in folder.glob(".*.tmp"):
        host, _, writer = leftover.name.split(".")[-2].rpartition("-")
        if host in ("", _host()) and writer.isdecimal() and not Path(f"/proc/{writer}").exists():
            _remove(leftover)


def _host() -> str:
    return socket.gethostname().replace(".", "-")


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
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, a number of too many digits
        raise UserError(f"{path}: is not JSON ({error}); it may be cut off or altered") from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return a log's records, each with its step; a last line cut off by a kill is left out, and so is one
    that was altered, which is said.
    """
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    found = [record for line in lines if (record := _as_record(line)) is not None]
    if len(found) < len(lines):
        print(f"{path}: {len(lines) - len(found)} altered lines are left out", file=sys.stderr)
    return found


def _as_record(line: bytes) -> dict[str, Any] | None:
    """Return a log's line if it holds numbers and texts at a step."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def sha256(path: Path) -> str:
    """Return a file's digest in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def known_sha256(path: Path, again: bool) -> str:
    """Return a file's digest, without reading it if it was read before and its size and time are the same.

    What is known stands in the project's runs/digests.json, which may be removed at any time; `again` reads
    the file in any case."""
    memory, status, name = project_root() / "runs" / "digests.json", path.stat(), str(path.resolve())
    try:
        known = read_json(memory)
        size, time, digest = known.get(name, (None, None, ""))
    except (UserError, AttributeError, ValueError, TypeError):
        known, size, time, digest = {}, None, None, ""
    state = (status.st_size, status.st_mtime_ns)
    if not again and (size, time) == state:
        return str(digest)
    found = sha256(path)
    if status.st_size >= REMEMBERED_BYTES and known.get(name) != [*state, found]:
        with suppress(UserError, OSError):  # only time is lost
            write_json(memory, known | {name: [*state, found]})
    return found


def project_root() -> Path:
    """Return the project's folder: DVC's root where DVC runs us, else the current one."""
    return Path(os.environ.get("DVC_ROOT") or ".").resolve()
