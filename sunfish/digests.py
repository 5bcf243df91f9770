"""A folder says of each of its files what it holds: `digests.json`, written last, checked on reading."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sunfish.errors import UserError
from sunfish.files import read_json, sha256, write_json

NAME = "digests.json"


def write_digests(folder: Path) -> None:
    """Write the digests of all files of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != NAME)
    write_json(folder / NAME, {path.relative_to(folder).as_posix(): sha256(path) for path in files})


def check_digests(folder: Path, needed: Iterable[str], remedy: str) -> None:
    """Hold the `needed` files of a folder against its digests; `remedy` says what to do if one is altered.

    Raises:
        UserError: a file is missing, has no digest, or is not what its digest says.
    """
    path = folder / NAME
    digests = read_json(path)
    if not isinstance(digests, dict) or not all(isinstance(value, str) for value in digests.values()):
        raise UserError(f"{path}: does not list the digests of files; {remedy}")
    for name in needed:
        if name not in digests:
            raise UserError(f"{path}: lists no digest of {name}; {remedy}")
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: no such file; {remedy}")
        if sha256(folder / name) != digests[name]:
            raise UserError(f"{folder / name}: is not what {NAME} says: one of the two was altered; {remedy}")
