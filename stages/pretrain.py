"""shards -> models/denoiser: weights, configuration, tokenizer, noise law."""

from __future__ import annotations

import argparse
from pathlib import Path

from sunfish.config import read_section
from sunfish.problems import report_problems
from sunfish.sections.data import Section as Data
from sunfish.sections.diffusion import Section as Diffusion
from sunfish.sections.launch import Section as Launch
from sunfish.sections.model import Section as Model
from sunfish.sections.pretrain import Section as Pretrain
from sunfish.sections.tracking import Section as Tracking


@report_problems
def main() -> None:
    """Train the denoiser on the shards, or carry on where an interrupted run stopped."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the trained denoiser")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file of final numbers")
    parser.add_argument("--curve", type=Path, required=True, help="CSV file of the loss curve")
    parser.add_argument("--runs", type=Path, help="where interrupted runs are kept (default: runs/ in the project)")
    arguments = parser.parse_args()
    data = read_section(arguments.params, "data", Data)
    model = read_section(arguments.params, "model", Model)
    diffusion = read_section(arguments.params, "diffusion", Diffusion)
    section = read_section(arguments.params, "pretrain", Pretrain)
    launch = read_section(arguments.params, "launch", Launch)
    tracking = read_section(arguments.params, "tracking", Tracking)

    from sunfish.training.pretraining import Places, pretrain  # torch is loaded only once the parameters are known to be good

    places = Places(arguments.shards, arguments.out, arguments.metrics, arguments.curve, arguments.runs)
    pretrain(data, model, diffusion, section, launch, tracking, places)


if __name__ == "__main__":
    main()
