"""The built page with an exported folder of one's own, served on this machine."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sunfish.errors import UserError
from sunfish.runtime.folder import check_files, needed_files, read_config
from sunfish.sampling.onnx_backend import PRECISIONS, weights_path

PAGE = Path(__file__).parents[2] / "web" / "dist"
HEADERS = {  # they let the page use threads, and no other site use the page
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cache-Control": "no-cache",
}


def page_server(folder: Path, host: str, port: int, page: Path = PAGE) -> ThreadingHTTPServer:
    """Return a server of the page and the model in `folder`, bound and not yet serving; port 0: any free.

    Raises:
        UserError: the page is not built, the folder is no whole exported model, or the address is taken.
    """
    if not (page / "index.html").is_file():
        raise UserError(f"{page}: the page is not built; run `make page`, which needs Node.js")
    config = read_config(folder)
    held = [precision for precision in PRECISIONS if weights_path(folder, precision).is_file()]
    for precision in held or PRECISIONS[:1]:
        check_files(folder, config, precision)
    files = {"digests.json", *(name for each in held for name in needed_files(folder, config, each))}
    try:
        return ThreadingHTTPServer((host, port), partial(_Handler, page, folder, files))
    except (OSError, OverflowError) as error:
        raise UserError(f"--port = {port}: {host} cannot be served there ({error}); take another") from error


class _Handler(SimpleHTTPRequestHandler):
    """Answers with files of the page, and below /model/ with those of a folder that sampling needs."""

    def __init__(self, page: Path, folder: Path, files: set[str], *args: Any) -> None:
        self.folder, self.files = folder, files
        super().__init__(*args, directory=str(page))

    def translate_path(self, path: str) -> str:
        """Return the file behind an address; one that is not there for all else below /model/."""
        name = unquote(urlsplit(path).path)
        if not name.startswith("/model/"):
            return super().translate_path(path)
        name = name.removeprefix("/model/")
        return str(self.folder / (name if name in self.files else "no such file"))

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
