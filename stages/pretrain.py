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
    parser.add_argument("--shards", type=Path, default=Path("data/shards"))
    parser.add_argument("--out", type=Path, default=Path("models/denoiser"), help="folder of the trained denoiser")
    parser.add_argument("--metrics", type=Path, default=Path("metrics/pretrain.json"), help="JSON file of final numbers")
    parser.add_argument("--curve", type=Path, default=Path("plots/loss_curve.csv"), help="CSV file of the loss curve")
    parser.add_argument("--runs", type=Path, help="where interrupted runs are kept (default: runs/ in the project)")
    parser.add_argument("--plan", action="store_true", help="say what it will take (memory, operations, time), and do not train")
    arguments = parser.parse_args()
    data = read_section(arguments.params, "data", Data)
    model = read_section(arguments.params, "model", Model)
    diffusion = read_section(arguments.params, "diffusion", Diffusion)
    section = read_section(arguments.params, "pretrain", Pretrain)
    launch = read_section(arguments.params, "launch", Launch)
    tracking = read_section(arguments.params, "tracking", Tracking)

    from sunfish.training.pretraining import (  # torch is loaded only once the parameters are known to be good
        Job,
        Places,
        pretrain,
        show_plan,
    )

    job = Job(data, model, diffusion, section, launch, tracking)
    if arguments.plan:
        return show_plan(job, arguments.shards)
    places = Places(arguments.shards, arguments.out, arguments.metrics, arguments.curve, arguments.runs)
    return pretrain(job, places)


if __name__ == "__main__":
    main()
