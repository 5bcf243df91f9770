"""denoiser -> models/onnx: a self-contained folder for onnxruntime."""

from __future__ import annotations

import argparse
from pathlib import Path

from sunfish.config import read_section
from sunfish.problems import report_problems
from sunfish.sections.export import Section as Export
from sunfish.sections.tracking import Section as Tracking


@report_problems
def main() -> None:
    """Export the denoiser to ONNX and hold it against torch."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--denoiser", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file of the parity numbers")
    arguments = parser.parse_args()
    section = read_section(arguments.params, "export", Export)
    tracking = read_section(arguments.params, "tracking", Tracking)

    from sunfish.export.folder import export_folder  # torch is loaded only once the parameters are known to be good

    export_folder(arguments.denoiser, arguments.out, arguments.metrics, section, tracking)


if __name__ == "__main__":
    main()
