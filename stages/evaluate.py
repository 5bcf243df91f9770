"""denoiser + shards -> metrics, plots, samples, the report."""

from __future__ import annotations

import argparse
from pathlib import Path

from sunfish.config.compose import read_section
from sunfish.errors import report_errors


@report_errors
def main() -> None:
    """Measure a denoiser: the bound on held-out text, the text it writes, the gaps it fills, its speed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--denoiser", type=Path, required=True)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--curve", type=Path, required=True, help="CSV file of the loss curve")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file of all numbers")
    parser.add_argument("--plots", type=Path, required=True, help="folder of pictures and their CSV")
    parser.add_argument("--samples", type=Path, required=True, help="text file of samples")
    parser.add_argument("--report", type=Path, required=True, help="HTML page with all of it")
    arguments = parser.parse_args()
    data = read_section(arguments.params, "data")
    section = read_section(arguments.params, "evaluate")
    tracking = read_section(arguments.params, "tracking")

    from sunfish.evaluation.evaluate import (
        Places,
        evaluate,
    )  # torch is loaded only once the parameters are known to be good

    names = ("denoiser", "shards", "curve", "metrics", "plots", "samples", "report")
    evaluate(data, section, tracking, Places(**{name: getattr(arguments, name) for name in names}))


if __name__ == "__main__":
    main()
