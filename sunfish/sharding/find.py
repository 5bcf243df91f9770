"""Which files a setting names: a path, folder, pattern or URL; each file once, whatever it is called."""

from __future__ import annotations

import glob
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from sunfish.documents import File, is_remote
from sunfish.errors import UserError
from sunfish.files import project_root
from sunfish.sharding.remote import list_remote

KIND = re.compile(r"\.(?:(parquet)|(jsonl|ndjson|json|txt)(?:\.(gz|zst|bz2|xz))?)$", re.IGNORECASE)
KINDS = ".parquet, .jsonl, .ndjson, .json and .txt, all but the first also with .gz, .zst, .bz2 or .xz"
FOLDERS = re.compile(r"/\*\*(?=/|$)")  # the part of a pattern that stands for any number of folders


class Kind(NamedTuple):
    """How a file is read, by its ending."""

    format: str  # parquet, jsonl (JSON lines), json (JSON lines or one array), txt
    compression: str  # gz, zst, bz2, xz or ""

    @property
    def is_divisible(self) -> bool:
        """Say whether reading can begin in the middle."""
        return self.format in ("parquet", "jsonl") and not self.compression


def kind_of(path: str) -> Kind | None:
    """Return how a file is read, upper case or not; None where the ending is not known."""
    found = KIND.search(path.split("?")[0] if is_remote(path) else path)
    if found is None:
        return None
    name = (found[1] or found[2]).lower()
    return Kind("jsonl" if name == "ndjson" else name, (found[3] or "").lower())


def find_all(patterns: Iterable[str], where: str) -> list[File]:
    """Return the files that paths, folders, patterns and URLs name, in their order, each once.

    Raises:
        UserError: nothing is there, a place is not reached, a kind is not known; `where` names the setting.
    """
    found: list[File] = []
    for pattern in patterns:
        files = list_remote(pattern, where) if is_remote(pattern) else _find_local(pattern)
        if not files:
            raise UserError(f"{where}: {_nothing_found(pattern)}")
        found += files
    for file in found:
        if kind_of(file.path) is None:
            raise UserError(f"{where}: {file.path}: this kind of file is not known; there are {KINDS}")
    return _without_other_names(found, where)


def find_here(patterns: Iterable[str], where: str) -> list[File]:
    """Return the files of this machine that patterns name, if any."""
    return [file for pattern in patterns if not is_remote(pattern) for file in _find_local(pattern)]


def _find_local(pattern: str) -> list[File]:
    """Return files: a path that exists is taken literally, a folder stands for the files in it."""
    path = _absolute(pattern, str(project_root()))
    if Path(path).is_file():
        names = [path]
    elif Path(path).is_dir():
        names = sorted({name for name in _expand(f"{glob.escape(path)}/**") if kind_of(name)})
    else:
        names = sorted(set(_expand(_absolute(pattern, glob.escape(str(project_root()))))))
    found = []
    for name in names:
        try:
            status = Path(name).stat()
        except OSError as error:
            print(f"{name}: left out, cannot be found ({error.strerror}); a broken link?", file=sys.stderr)
            continue
        if stat.S_ISREG(status.st_mode):
            found.append(File(name, status.st_size, str(status.st_mtime_ns)))
    return found


def _absolute(pattern: str, root: str) -> str:
    path = unquote(pattern.removeprefix("file://")) if pattern.startswith("file://") else pattern
    return str(Path(root) / Path(path).expanduser())


def _expand(pattern: str) -> Iterator[str]:
    """Yield what a pattern matches. Links are followed, but no folder is entered inside itself."""
    found = FOLDERS.search(pattern)
    if found is None:
        yield from glob.iglob(pattern)
        return
    for root in glob.iglob(pattern[: found.start()] or "/"):
        for folder in _folders(root, frozenset()) if Path(root).is_dir() else ():
            yield from _expand(f"{glob.escape(folder)}{pattern[found.end() :] or '/*'}")


def _folders(folder: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    status = Path(folder).stat()
    if (identity := (status.st_dev, status.st_ino)) in above:
        return
    yield folder
    try:
        inner = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror})") from error
    for path in inner:
        yield from _folders(path, above | {identity})


def _nothing_found(pattern: str) -> str:
    if is_remote(pattern):
        return f"nothing matches {pattern!r}"
    path = _absolute(pattern, str(project_root()))
    if Path(path).is_dir():
        return f"{pattern!r} is a folder in which there is no file of a known kind: {KINDS}"
    hidden = "; ** leaves out folders whose names begin with a dot" if "**" in pattern else ""
    folders = "; it names folders only: add /**" if any(map(os.path.isdir, glob.iglob(path))) else ""
    shells = "; {a,b} and $NAME are a shell's, write them out" if re.search(r"[{$]", pattern) else ""
    relative = f"paths are relative to the project's folder, {project_root()}"
    return f"nothing matches {pattern!r}; {relative}{hidden}{folders}{shells}"


def _without_other_names(found: list[File], where: str) -> list[File]:
    """Leave out other names of files that are there already, by links or by several patterns, and say so."""
    first: dict[object, File] = {}
    for file in found:
        known = first.setdefault(_identity(file.path), file)
        if known.path != file.path and not _is_real(known.path) and _is_real(file.path):
            first[_identity(file.path)] = file
    kept = {file.path: file for file in first.values()}
    others = sorted({file.path for file in found} - set(kept))
    if others:
        what = f"{len(others)} other names of files that are read anyway are left out: {others[0]} ..."
        print(f"{where}: {what}", file=sys.stderr)
    return [kept.pop(file.path) for file in found if file.path in kept]


def _identity(path: str) -> object:
    if is_remote(path):
        return path
    status = Path(path).stat()
    return status.st_dev, status.st_ino


def _is_real(path: str) -> bool:
    return os.path.realpath(path) == path
