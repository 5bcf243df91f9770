"""Text files -> records: one document a file, or several between separators."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from sunfish.config.schema.sources import Columns, Files
from sunfish.documents import Record, Span, Unreadable
from sunfish.sharding.streams import DamagedFile, open_file

CHUNK_BYTES = 2**20
MAX_DOCUMENT_CHARACTERS = 2**28
ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}


def read_txt(source: Columns, span: Span) -> Iterator[Record | Unreadable]:
    """Read a text file, without the mark at its beginning that some editors write."""
    separator = separator_pattern(source.separator) if isinstance(source, Files) else None
    rest, number, searched = "", 0, 0
    for chunk in _decoded(span):
        rest += chunk
        end = 0
        for found in separator.finditer(rest, searched) if separator else ():
            yield Record(rest[end : found.start()], {}, f"{span.path}: document {number}")
            end, number = found.end(), number + 1
        rest = rest[end:]
        searched = max(0, len(rest) - 2 * len(separator.pattern)) if separator else 0
        if len(rest) > MAX_DOCUMENT_CHARACTERS:
            limit = f"is longer than {MAX_DOCUMENT_CHARACTERS:,} characters"
            yield Unreadable(f"{span.path}: document {number} {limit}; is `separator` right?")
            return
    yield Record(rest, {}, f"{span.path}: document {number}")


def separator_pattern(separator: str | None) -> re.Pattern[str] | None:
    r"""Return what stands between documents. `\n`, `\r`, `\t` and `\\` may be written as escapes, and an end
    of line is found in files with CRLF too."""
    if separator is None:
        return None
    text = re.sub(r"\\([nrt\\])", lambda escape: ESCAPES[escape[1]], separator)
    return re.compile(re.escape(text.replace("\r\n", "\n")).replace("\\\n", "\r?\n"))


def _decoded(span: Span) -> Iterator[str]:
    decoder, at = codecs.getincrementaldecoder("utf-8-sig")(), 0
    with open_file(span.path, span.size) as file:
        while True:
            chunk = file.read(CHUNK_BYTES)
            pending = len(decoder.getstate()[0])
            try:
                yield decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                place = f"{error.reason} at byte {at - pending + error.start}"
                is_utf16 = at == 0 and chunk[:2] in (b"\xff\xfe", b"\xfe\xff")
                utf16 = "; it looks like UTF-16" if is_utf16 else ""
                raise DamagedFile(f"is not UTF-8 text ({place}){utf16}; what stands there is lost") from error
            if not chunk:
                return
            at += len(chunk)
