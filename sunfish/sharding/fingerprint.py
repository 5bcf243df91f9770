"""What lies behind the paths that `data` names: files that may change while the configuration stays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sunfish.config.schema.data import DataConfig
from sunfish.documents import File
from sunfish.files import project_root, sha256
from sunfish.sharding.plan import tokenizer_digest

SMALL_BYTES = 2**16  # of these the content decides, of larger files the time of their last change


def fingerprint(section: DataConfig) -> dict[str, Any]:
    """Return the local files of each source and the local tokenizer, with what changes when they do.

    Generated and remote sources have none: what decides there, such as a revision, stands in params.yaml."""
    files = {name: source.local_files(f"data.sources.{name}") for name, source in section.sources.items()}
    return {
        "sources": {name: _entries(of) for name, of in files.items() if of},
        "tokenizer": tokenizer_digest(section.tokenizer.pretrained),
    }


def _entries(files: list[File]) -> dict[str, list[Any]]:
    """Return each file's size and what changes with it, by its path from the project's folder."""
    root = str(project_root())
    entries: dict[str, list[Any]] = {}
    for file in files:
        path = file.path.removeprefix(f"{root}{os.sep}")
        entries[path] = [file.size, file.version if file.size > SMALL_BYTES else sha256(Path(file.path))]
    return entries
