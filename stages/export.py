"""denoiser -> models/onnx: a self-contained folder for onnxruntime."""

from __future__ import annotations

import argparse
from pathlib import Path

from sunfish.config.compose import read_section
from sunfish.errors import report_errors


@report_errors
def main() -> None:
    """Export the denoiser to ONNX, hold it against torch, and measure what 8 bits cost."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--denoiser", type=Path, required=True)
    parser.add_argument("--shards", type=Path, required=True, help="what 8 bits cost is measured on them")
    parser.add_argument("--results", type=Path, help="tables of the evaluation, for the folder to tell")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file of the parity numbers")
    arguments = parser.parse_args()
    sections = ("data", "evaluate", "sampler", "export", "tracking")
    data, evaluate, sampler, config, tracking = (read_section(arguments.params, name) for name in sections)

    # torch is loaded only once the parameters are known to be good
    from sunfish.evaluation.context import EvalContext
    from sunfish.evaluation.exported import bound_of
    from sunfish.export.folder import export_folder
    from sunfish.export.measured import read_measured
    from sunfish.export.register import register
    from sunfish.runtime.settings import Settings

    context = EvalContext.read(arguments.denoiser, arguments.shards, data, evaluate, sampler)

    def measure(graph: Path) -> dict[str, float]:
        return bound_of(context, graph, config.quality_rows)

    measured = read_measured(arguments.results, context.stored.digest()) if arguments.results else ()
    export_folder(arguments.denoiser, arguments.out, arguments.metrics, config, sampler, measure, measured)
    register(arguments.out, tracking, Settings)


if __name__ == "__main__":
    main()
