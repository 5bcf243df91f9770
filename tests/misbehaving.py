"""A local HTTP server that misbehaves as servers do: it drops, refuses, errs, dawdles and miscounts; and a
stand-in for the Hub.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FAULTS = ("drop", "429", "500", "slow", "short", "long", "none", "none")
REVISION, COMMIT, DATASET = "v1.4.0", "a" * 40, "someone/web"


class Server(ThreadingHTTPServer):
    """Serves a folder; `faulty` requests in a row of each file and range go wrong before one goes well."""

    daemon_threads = True

    def __init__(self, folder: Path, faulty: int, seed: int = 0, ranges: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.faulty, self.ranges = folder, faulty, ranges
        self.random, self.lock = random.Random(seed), threading.Lock()
        self.tries: Counter[tuple[str, str]] = Counter()
        self.faults: Counter[str] = Counter()
        self.always: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fault(self, path: str, range_: str) -> str:
        with self.lock:
            if self.always:
                return self.always
            self.tries[path, range_] += 1
            if self.tries[path, range_] > self.faulty:
                return "none"
            fault = self.random.choice(FAULTS)
            self.faults[fault] += 1
            return fault

    def handle_error(self, *_: object) -> None:  # a client that hangs up is part of the game
        pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve(body=False)

    def do_GET(self) -> None:
        self._serve(body=True)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._json([_info(path, self.server.folder) for path in sorted(self.server.folder.iterdir())])

    def _serve(self, body: bool) -> None:
        if self.path.startswith("/api/"):
            return self._api()
        path = self.server.folder / self.path.split("?")[0].rsplit("/", 1)[-1]
        if not path.is_file():
            return self._plain(404)
        data = path.read_bytes()
        range_ = self.headers.get("Range", "")
        fault = self.server.fault(self.path, range_) if body or self.server.always else "none"
        if fault in ("429", "500", "403"):
            return self._plain(int(fault))
        part = data
        if range_ and self.server.ranges:
            start, stop = range_.removeprefix("bytes=").split("-")
            part = data[int(start) : int(stop) + 1 if stop else len(data)]
        if fault == "slow":
            time.sleep(0.3)
        if fault == "long":
            part = part + b"!"
        self.send_response(206 if range_ and self.server.ranges else 200)
        if range_ and self.server.ranges:
            self.send_header("Content-Range", f"bytes {start}-{int(start) + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part) if body else len(data)))
        self.send_header("Accept-Ranges", "bytes" if self.server.ranges else "none")
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(part[: len(part) // 2] if fault in ("drop", "short") else part)
        if fault in ("drop", "short"):
            self.close_connection = True

    def _plain(self, status: int, code: str = "EntryNotFound") -> None:
        self.send_response(status)
        if status == 404:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _json(self, value: object) -> None:
        text = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _api(self) -> None:
        """The part of the Hub's protocol that finds a dataset's files at a revision."""
        path, folder = self.path.split("?")[0], self.server.folder
        if not path.startswith(f"/api/datasets/{DATASET}"):
            return self._plain(404, "RepoNotFound")
        if "/tree/" in path:
            return self._json([_info(file, folder) for file in sorted(folder.iterdir())])
        if "/revision/" in path and path.rsplit("/", 1)[-1] not in (REVISION, COMMIT):
            return self._plain(404, "RevisionNotFound")
        siblings = [{"rfilename": file.name} for file in sorted(folder.iterdir())]
        return self._json(
            {
                "id": DATASET,
                "sha": COMMIT,
                "siblings": siblings,
                "private": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
            }
        )


def _info(path: Path, folder: Path) -> dict[str, object]:
    oid = hashlib.sha1(path.read_bytes()).hexdigest()
    return {"type": "file", "path": str(path.relative_to(folder)), "size": path.stat().st_size, "oid": oid}


@contextmanager
def serving(folder: Path, faulty: int = 0, ranges: bool = True) -> Iterator[Server]:
    server = Server(folder, faulty, ranges=ranges)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
