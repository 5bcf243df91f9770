"""denoiser + shards -> headline numbers, every table, pictures, samples."""

from __future__ import annotations

import argparse
from pathlib import Path

from sunfish.config.compose import read_section
from sunfish.errors import report_errors

PLACES = {
    "denoiser": ("models/denoiser", "folder of the trained denoiser"),
    "shards": ("data/shards", "folder of the shards it was trained on"),
    "curve": ("results/plots/loss_curve.csv", "CSV file of the loss curve"),
    "metrics": ("results/metrics/evaluate.json", "JSON file of the headline numbers"),
    "results": ("results/evaluate.json", "JSON file of every table"),
    "plots": ("results/plots/evaluate", "folder of pictures and their CSV"),
    "samples": ("results/samples/samples.txt", "text file of samples"),
}


@report_errors
def main() -> None:
    """Measure a denoiser: its likelihoods, the texts it writes, the gaps it fills, its speed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    for name, (default, says) in PLACES.items():
        says = f"{says} (default: {default})"
        parser.add_argument(f"--{name}", type=Path, default=Path(default), help=says)
    arguments = parser.parse_args()
    names = ("data", "evaluate", "sampler", "tracking")
    sections = {name: read_section(arguments.params, name) for name in names}

    # torch is loaded only once the parameters are known to be good
    from sunfish.evaluation.evaluate import Places, Settings, evaluate

    evaluate(Settings(**sections), Places(**{name: getattr(arguments, name) for name in PLACES}))


if __name__ == "__main__":
    main()
