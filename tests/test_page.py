"""The page: its core and its built whole are held against the runtime, where Node and Chromium are there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sunfish.errors import UserError
from sunfish.runtime.serve import page_server
from tests.builders import ROOT
from tests.page_fixtures import page_fixtures

pytest_plugins = ["tests.exports"]
WEB = ROOT / "web"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_node = pytest.mark.skipif(
    shutil.which("npx") is None or not (WEB / "node_modules").is_dir(),
    reason="no Node.js, or its packages are not installed (npm ci --prefix web)",
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")


def npx(*arguments: str, **environment: str) -> None:
    run = subprocess.run(
        ["npx", "--no-install", *arguments], cwd=WEB, env={**os.environ, **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr


@contextmanager
def served(folder: Path, page: Path) -> Iterator[str]:
    """Serve a page and a folder while the block runs, and give their address."""
    with page_server(folder, "127.0.0.1", 0, page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def fixtures(told_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "fixtures.json"
    file.write_text(json.dumps(page_fixtures(told_folder, "fp32", 3)), encoding="utf-8")
    return file


@pytest.fixture
def page(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_text("<p>a page</p>")
    return tmp_path


@needs_node
@pytest.mark.slow
def test_the_core_writes_what_the_runtime_writes(fixtures: Path) -> None:
    npx("tsc", "--noEmit")
    npx("vitest", "run", "tests/core.test.ts", SUNFISH_FIXTURES=str(fixtures))


@needs_node
@needs_chromium
@pytest.mark.slow
def test_the_page_in_a_browser(told_folder: Path, fixtures: Path, tmp_path: Path) -> None:
    npx("vite", "build", "--outDir", str(tmp_path / "page"), MODEL=str(told_folder))
    with served(told_folder, tmp_path / "page") as address:
        places = {"SUNFISH_PAGE": address, "SUNFISH_FIXTURES": str(fixtures), "CHROMIUM": str(CHROMIUM)}
        npx("vitest", "run", "tests/page.test.ts", **places)


def test_the_page_and_what_sampling_needs_are_served_and_nothing_else(folder: Path, page: Path) -> None:
    (folder.parent / "secret").write_text("")
    with served(folder, page) as address:
        assert urllib.request.urlopen(address).read() == b"<p>a page</p>"
        answer = urllib.request.urlopen(address + "model/onnx/step.onnx")
        assert answer.read() == (folder / "onnx" / "step.onnx").read_bytes()
        assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        for other in ("model/../secret", "model/%2e%2e/secret", "model/onnx", "model/"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(address + other)


def test_a_page_that_cannot_be_served_is_one_line(folder: Path, page: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `make page`"):
        page_server(folder, "127.0.0.1", 0, tmp_path / "none")
    with pytest.raises(UserError, match=r"no config\.json"):
        page_server(page, "127.0.0.1", 0, page)
    with page_server(folder, "127.0.0.1", 0, page) as server, pytest.raises(UserError, match="--port"):
        page_server(folder, "127.0.0.1", server.server_port, page)
