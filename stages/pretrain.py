"""shards -> models/denoiser: weights, configuration, tokenizer, noise schedule."""

from __future__ import annotations

import argparse
from pathlib import Path

from sunfish.config.compose import read_section
from sunfish.errors import report_errors

SECTIONS = ("data", "model", "schedule", "diffusion", "pretrain", "launch", "tracking")
PLACES = {
    "out": ("models/denoiser", "folder of the trained denoiser"),
    "metrics": ("results/metrics/pretrain.json", "JSON file of final numbers"),
    "curve": ("results/plots/loss_curve.csv", "CSV file of the loss curve"),
}


@report_errors
def main() -> None:
    """Train the denoiser on the shards, or carry on where an interrupted run stopped."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--shards", type=Path, default=Path("data/shards"))
    for name, (default, says) in PLACES.items():
        parser.add_argument(f"--{name}", type=Path, default=Path(default), help=says)
    parser.add_argument("--runs", type=Path, help="where interrupted runs are kept (default: runs/)")
    says = "say what it will take here, or on GPUs such as H100, and do not train"
    parser.add_argument("--plan", nargs="?", const="here", metavar="GPU", help=says)
    arguments = parser.parse_args()
    params = {name: read_section(arguments.params, name) for name in SECTIONS}

    # torch is loaded only once the parameters are known to be good
    from sunfish.training.plan import show_plan
    from sunfish.training.run import Job, Places, pretrain
    from sunfish.training.train_step import Recipe

    recipe = Recipe(*(params[name] for name in ("model", "schedule", "diffusion", "pretrain")))
    job = Job(params["data"], recipe, params["launch"], params["tracking"])
    if arguments.plan:
        return show_plan(job, arguments.shards, arguments.plan)
    folders = (arguments.shards, arguments.out, arguments.metrics, arguments.curve, arguments.runs)
    return pretrain(job, Places(*folders, arguments.params))


if __name__ == "__main__":
    main()
