"""Files elsewhere: listed by URL or pattern, read in ranges that are whole or asked for again."""

from __future__ import annotations

import functools
import io
import time
from typing import Any

from sunfish.documents import File, is_remote, reason_of
from sunfish.errors import UserError
from sunfish.text.hub import go_offline_if_unreachable

ATTEMPTS = 7
FIRST_WAIT_SECONDS = 0.25  # doubled each time: about 16 s in all
BLOCK_BYTES = 4 * 2**20
UNRANGED_BYTES = 64 * 2**20  # what a server that knows no ranges may send whole each time
WORTH_ANOTHER_TRY = (408, 425, 429)  # of the 4xx; all others will say the same again
SECONDS_TO_CONNECT, SECONDS_OF_SILENCE = 10.0, 30.0
VERSIONS = ("ETag", "etag", "LastModified", "last_modified", "mtime", "blob_id")


def list_remote(pattern: str, where: str) -> list[File]:
    """Return the files that a URL or a pattern of URLs names, sorted.

    Raises:
        UserError: no such file, or its place cannot be reached; `where` names the setting.
    """
    system, inner = _open_system(pattern)

    def listing() -> list[dict[str, Any]]:
        if any(sign in inner for sign in "*[") or (not pattern.startswith("http") and "?" in inner):
            found = system.glob(inner, detail=True)
            return [found[name] for name in sorted(found) if found[name]["type"] == "file"]
        return [system.info(inner)]

    try:
        return [_as_file(pattern, info) for info in _insist(listing, pattern)]
    except FileNotFoundError as error:
        raise UserError(f"{where}: {pattern}: no such file there") from error


def _as_file(pattern: str, info: dict[str, Any]) -> File:
    system, _ = _open_system(pattern)
    path = str(info["name"]) if is_remote(str(info["name"])) else system.unstrip_protocol(info["name"])
    if not isinstance(info.get("size"), int):
        unknown = "its server does not say how long it is"
        raise UserError(f"{path}: {unknown}; fetch it first and give the local path")
    return File(path, info["size"], next((str(info[key]) for key in VERSIONS if info.get(key)), ""))


@functools.lru_cache(maxsize=64)
def _system(protocol: str, root: str) -> Any:
    import fsspec

    options: dict[str, Any] = {}
    if protocol in ("http", "https"):
        import aiohttp

        patience = {"sock_connect": SECONDS_TO_CONNECT, "sock_read": SECONDS_OF_SILENCE}
        options = {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=None, **patience)}}
    if protocol == "hf":
        go_offline_if_unreachable()
    try:
        return fsspec.filesystem(protocol, **options)
    except (ImportError, ValueError) as error:
        raise UserError(f"{root}: {protocol}:// cannot be opened here ({error})") from error


def _open_system(path: str) -> tuple[Any, str]:
    protocol = path.split("://", 1)[0]
    system = _system(protocol, path.split("/")[2] if protocol in ("http", "https") else protocol)
    return system, system._strip_protocol(path)


def _insist(act: Any, path: str) -> Any:
    """Return what `act` returns, trying again, ever later, when the network or the server fails."""
    wait = FIRST_WAIT_SECONDS
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return act()
        except UserError:
            raise
        except Exception as raised:  # aiohttp, httpx, botocore, OSError: many classes, one meaning
            # fsspec calls every failure FileNotFoundError
            error = raised.__cause__ or raised if isinstance(raised, FileNotFoundError) else raised
            response = getattr(error, "response", None)
            status = getattr(error, "status", None) or getattr(response, "status_code", None)
            if isinstance(error, FileNotFoundError) or status in (404, 410):
                raise FileNotFoundError(path) from error
            if isinstance(status, int) and 400 <= status < 500 and status not in WORTH_ANOTHER_TRY:
                raise UserError(f"{path}: the server refuses it (status {status})") from error
            if attempt == ATTEMPTS:
                raise UserError(
                    f"{path}: cannot be read, tried {ATTEMPTS} times ({reason_of(error)}). Run it again when "
                    "the network is there: what is done stays done. Without a network, data=stories and "
                    "data=files with local paths run"
                ) from error
        time.sleep(wait)
        wait *= 2


class ShortRead(OSError):
    """A server sent another number of bytes than it was asked for."""


class RemoteFile(io.RawIOBase):
    """A remote file as a seekable stream; each read is one range request, whole or tried again."""

    def __init__(self, path: str, size: int) -> None:
        self.path, self.size, self.at = path, size, 0
        self.system, self.inner = _open_system(path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        return self.at

    def readinto(self, buffer: Any) -> int:
        stop = min(self.at + len(buffer), self.size)
        if stop <= self.at:
            return 0
        try:
            data = _insist(functools.partial(self._fetch, self.at, stop), self.path)
        except FileNotFoundError as error:
            raise UserError(f"{self.path}: is no longer there") from error
        buffer[: len(data)] = data
        self.at = stop
        return len(data)

    def _fetch(self, start: int, stop: int) -> bytes:
        data: bytes = self.system.cat_file(self.inner, start=start, end=stop)
        if len(data) == self.size and self.size <= UNRANGED_BYTES:
            return data[start:stop]  # the server knows no ranges and sent all of it
        if len(data) != stop - start:
            raise ShortRead(f"{len(data):,} bytes came instead of {stop - start:,}")
        return data
