"""Hold an exported folder against its manifest."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from sunfish.errors import UserError
from sunfish.files import read_json
from sunfish.sampling.onnx_backend import FORMAT


def check_folder(folder: Path, precision: str | None = None) -> dict[str, Any]:
    """Hold the files of an exported folder against its manifest, and return the manifest.

    With a `precision` the graphs of the other one are not read: they may be large.

    Raises:
        UserError: no such folder, no such precision in it, or a missing or altered file, by name.
    """
    if not (folder / "manifest.json").is_file():
        raise UserError(
            f"{folder}: is not an exported model (it has no manifest.json); `make repro` or the export stage writes one"
        )
    manifest: dict[str, Any] = read_json(folder / "manifest.json")
    if manifest.get("format") != FORMAT:
        raise UserError(
            f"{folder}: was exported in format {manifest.get('format')}, this version reads format {FORMAT}; export it again"
        )
    if precision is not None and precision not in manifest["bytes"]:
        raise UserError(
            f"{folder}: holds no {precision} graphs, only {', '.join(manifest['bytes'])}; export it with export.int8 set"
        )
    for name, digest in manifest["sha256"].items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: is missing; export the model again or copy the whole folder")
        if (
            name.startswith("onnx/")
            and precision is not None
            and ("_quantized." in name) != (precision == "int8")
        ):
            continue
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise UserError(
                    f"{path}: was altered or cut off (its sha256 is not the manifest's); export the model again"
                )
    return manifest
