"""A file -> its bytes, decompressed to the very end: a stream that is cut off is an error, not an end."""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from sunfish.documents import is_remote, reason_of
from sunfish.errors import UserError
from sunfish.sharding.find import Kind, kind_of
from sunfish.sharding.remote import BLOCK_BYTES, RemoteFile

READ_BYTES = 2**13  # compressed; what comes of it is held, and a kilobyte may become a hundred megabytes
MAX_WINDOW_BYTES = 2**31  # of zstd --long=31, which needs so much memory
PLACEHOLDER_BYTES = 2**20  # a larger file is none
PLACEHOLDERS = {
    b"version https://git-lfs.github.com/spec/": "is a Git LFS pointer, not the file; run `git lfs pull`",
    b"/annex/objects/": "is a git-annex pointer, not the file itself; run `git annex get`",
}
PAGES = (b"<!doctype html", b"<html", b"<?xml")


class DamagedFile(Exception):
    """A file cannot be read, or no further; the message goes behind its name."""


@contextmanager
def open_file(path: str, size: int) -> Iterator[BinaryIO]:
    """Open a file for reading, decompressed by its ending; only others can be entered in the middle.

    Raises:
        UserError: it is another than the one that was found.
        DamagedFile: it cannot be opened, is empty or a placeholder; from `read`: it is corrupt or cut off.
    """
    if size == 0:
        raise DamagedFile("is empty (0 bytes); perhaps it was never fetched")
    kind = kind_of(path) or Kind("txt", "")
    with _open_raw(path, size) as raw:
        if not is_remote(path) and Path(path).stat().st_size != size:
            raise UserError(f"{path}: has changed while it was read; run it again")
        if size <= PLACEHOLDER_BYTES:
            _refuse_placeholder(raw.read(256), kind)
            raw.seek(0)
        if not kind.compression:
            yield raw
            return
        packed = io.BufferedReader(Decompressed(raw, kind.compression), BLOCK_BYTES)
        if not packed.peek(1):
            raise DamagedFile("holds nothing (0 bytes, packed); perhaps it was never written")
        yield cast(BinaryIO, packed)


def _open_raw(path: str, size: int) -> BinaryIO:
    if is_remote(path):
        return cast(BinaryIO, io.BufferedReader(RemoteFile(path, size), BLOCK_BYTES))
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise DamagedFile(f"cannot be opened ({error.strerror})") from error


def _refuse_placeholder(beginning: bytes, kind: Kind) -> None:
    if not beginning.strip(b"\0"):
        raise DamagedFile("begins with zeros only; perhaps its download never ended")
    for sign, reason in PLACEHOLDERS.items():
        if beginning.startswith(sign):
            raise DamagedFile(reason)
    is_text = kind.format == "txt" and not kind.compression  # which may well be a page
    if not is_text and beginning.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(PAGES):
        raise DamagedFile("is a web page, not the file itself; its server may ask for a login")


def _new_zstd() -> Any:
    import zstandard

    return zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()


STREAMS: dict[str, Callable[[], Any]] = {
    "gz": lambda: zlib.decompressobj(wbits=31),
    "zst": _new_zstd,
    "bz2": bz2.BZ2Decompressor,
    "xz": lzma.LZMADecompressor,
}


class Decompressed(io.RawIOBase):
    """The content of a compressed file: of all the streams (members, frames) in it, one after another."""

    def __init__(self, raw: BinaryIO, compression: str) -> None:
        self.raw, self.new_stream = raw, STREAMS[compression]
        self.stream: Any = self.new_stream()
        self.rest = b""  # compressed, behind the end of a stream
        self.ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.ready:
            if not self._decompress():
                return 0
        count = min(len(buffer), len(self.ready))
        buffer[:count], self.ready = self.ready[:count], self.ready[count:]
        return count

    def _decompress(self) -> bool:
        """Make more ready, if only a little; False at the end of the file."""
        chunk, self.rest = self.rest or self.raw.read(READ_BYTES), b""
        if self.stream is None:  # between streams, where zeros may stand
            if not chunk:
                return False
            if not (chunk := chunk.lstrip(b"\0")):
                return True
            self.stream = self.new_stream()
        if not chunk:
            raise DamagedFile("cannot be decompressed to its end: it may be cut off")
        try:
            self.ready = memoryview(self.stream.decompress(chunk))
            ended = self.stream.eof
        except Exception as error:
            raise DamagedFile(f"cannot be decompressed ({reason_of(error)}); it may be cut off") from error
        if ended:
            self.rest, self.stream = self.stream.unused_data, None
        return True
