"""The small graphs of an exported folder, as a folder of their own: what comes with the package to try.

python -m sunfish.runtime.ship models/onnx sunfish/shipped
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from sunfish.digests import write_digests
from sunfish.errors import report_errors
from sunfish.files import read_json, replacing, write_json, write_text
from sunfish.runtime.folder import check_files, needed_files, read_config

PRECISION = "int8"


@report_errors
def main() -> None:
    """Copy what sampling in 8 bits needs."""
    parser = argparse.ArgumentParser(prog="python -m sunfish.runtime.ship", description=main.__doc__)
    parser.add_argument("exported", type=Path, help="folder that the export stage wrote")
    parser.add_argument("out", type=Path, help="folder to write")
    arguments = parser.parse_args()
    ship(arguments.exported, arguments.out)


def ship(exported: Path, out: Path) -> None:
    """Write the folder whole or not at all, with digests and a manifest of its own.

    Raises:
        UserError: the exported folder is incomplete, altered, or without 8-bit graphs.
    """
    config = read_config(exported)
    check_files(exported, config, PRECISION)
    with replacing(out) as folder:
        (folder / "onnx").mkdir(parents=True)
        for name in needed_files(exported, config, PRECISION):
            shutil.copyfile(exported / name, folder / name)
        card = (folder / "README.md").read_text(encoding="utf-8")
        write_text(folder / "README.md", card.replace('sampler.onnx"', 'sampler_quantized.onnx"'))
        manifest = read_json(folder / "manifest.json")
        write_json(folder / "manifest.json", {**manifest, "bytes": {PRECISION: manifest["bytes"][PRECISION]}})
        write_digests(folder)


if __name__ == "__main__":
    main()
