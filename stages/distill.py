"""denoiser + shards -> models/guess: the guess of a walk at once, and what it is worth."""

from __future__ import annotations

import argparse
from pathlib import Path

from sunfish.config import check
from sunfish.problems import Problem, report_problems


@report_problems
def main() -> None:
    """Distil the walk at once into its guess, and measure both at few calls."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--denoiser", type=Path, default=Path("models/denoiser"))
    parser.add_argument("--shards", type=Path, default=Path("data/shards"))
    parser.add_argument("--out", type=Path, default=Path("models/guess"), help="folder of the guess")
    parser.add_argument("--metrics", type=Path, default=Path("metrics/distill.json"))
    parser.add_argument("--picture", type=Path, default=Path("plots/distill.png"))
    arguments = parser.parse_args()
    params = check(arguments.params)
    evaluate = params["evaluate"]
    if evaluate.sampler != "picard":
        raise Problem(f"evaluate.sampler = {evaluate.sampler}: only a walk at once asks a guess; set it to picard")

    from sunfish.evaluation.distilled import draw_guess, measure_guess  # torch is loaded only once the parameters are known to be good
    from sunfish.evaluation.subject import Subject
    from sunfish.files import require_writable, write_json
    from sunfish.model.guess import read_guess, write_guess
    from sunfish.text.batches import Rows
    from sunfish.training.distilling import distil

    for path in (arguments.out, arguments.metrics, arguments.picture):
        require_writable(path)
    subject = Subject.read(arguments.denoiser, arguments.shards, params["data"], evaluate)
    rows, section = Rows(subject.shards, "train", params["data"]), params["distill"]
    guess, weights, loss = distil(
        subject.stored, rows, section, params["pretrain"].optim, params["diffusion"].known, params["launch"], subject.table(),
        evaluate.temperature,
    )  # fmt: skip
    write_guess(arguments.out, guess, weights, subject.stored.digest())
    measured = measure_guess(subject, read_guess(arguments.out, subject.stored), section)
    write_json(arguments.metrics, {"loss": loss, **measured})
    draw_guess(arguments.picture, measured, "sentences_valid" if subject.grammar else "distinct_2")


if __name__ == "__main__":
    main()
