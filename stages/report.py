"""results + params -> results/report.html."""

from __future__ import annotations

import argparse
from pathlib import Path

from sunfish.config.compose import read_section
from sunfish.errors import report_errors

SECTIONS = ("model", "data", "schedule", "diffusion", "sampler", "pretrain", "evaluate")


@report_errors
def main() -> None:
    """Write one page about a training and its evaluation; it opens from disk and requests nothing."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--results", type=Path, default=Path("results/evaluate.json"))
    parser.add_argument("--pretrain", type=Path, default=Path("results/metrics/pretrain.json"))
    parser.add_argument("--plots", type=Path, default=Path("results/plots/evaluate"))
    parser.add_argument("--out", type=Path, default=Path("results/report.html"))
    arguments = parser.parse_args()
    settings = {name: read_section(arguments.params, name) for name in SECTIONS}

    from sunfish.evaluation.report import Inputs, write_report

    inputs = Inputs(arguments.results, arguments.pretrain, arguments.plots)
    write_report(arguments.out, inputs, settings["data"], settings)


if __name__ == "__main__":
    main()
