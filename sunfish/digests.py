"""A folder says of each of its files what it holds: `digests.json`, written last, checked on reading."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sunfish.errors import UserError
from sunfish.files import read_json, sha256, write_json
from sunfish.printable import printable

NAME = "digests.json"


def write_digests(folder: Path, names: Iterable[str] | None = None) -> None:
    """Write the digests of all files of a folder, or of those named."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != NAME)
    if names is not None:
        files = [folder / name for name in names]
    write_json(folder / NAME, {path.relative_to(folder).as_posix(): sha256(path) for path in files})


def check_digests(folder: Path, needed: Iterable[str] | None, remedy: str) -> None:
    """Hold the `needed` files of a folder against its digests; `remedy` says what to do if one is altered.

    None is every file that is there or has a digest.

    Raises:
        UserError: a file is missing, has no digest, or is not what its digest says.
    """
    path = folder / NAME
    if not path.is_file():
        raise UserError(f"{path}: no such file; {remedy}")
    digests = read_json(path)
    if not isinstance(digests, dict) or not all(isinstance(value, str) for value in digests.values()):
        raise UserError(f"{path}: does not list the digests of files; {remedy}")
    for name in _all_names(folder, digests) if needed is None else needed:
        if name not in digests:
            raise UserError(f"{path}: lists no digest of {name}; {remedy}")
        if not (folder / name).is_file():
            raise UserError(f"{folder / printable(name)}: no such file, which {NAME} lists; {remedy}")
        if sha256(folder / name) != digests[name]:
            raise UserError(f"{folder / name}: is not what {NAME} says: one of the two was altered; {remedy}")


def _all_names(folder: Path, digests: dict[str, str]) -> list[str]:
    there = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return sorted({*there, *digests} - {NAME})
