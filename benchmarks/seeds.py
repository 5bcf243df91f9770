"""The default's quality by training seeds: the configured sampler on denoisers trained with other seeds.

python -m benchmarks.seeds models/denoiser runs/seed1 runs/seed2 --texts 2000
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from sunfish.config.compose import check
from sunfish.errors import report_errors
from sunfish.evaluation.context import EvalContext
from sunfish.evaluation.held_out import measure_bound, measure_causal
from sunfish.evaluation.metrics import measure
from sunfish.files import write_json


@report_errors
def main() -> None:
    """Sample with each denoiser, and measure both likelihoods."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "denoisers", type=Path, nargs="+", help="folders, in the order of their seeds from 0 on"
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--shards", type=Path, default=Path("data/shards"))
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/seeds.json"))
    arguments = parser.parse_args()
    params, rows = check(arguments.params), []
    torch.set_flush_denormal(True)
    for seed, folder in enumerate(arguments.denoisers):
        context = EvalContext.read(
            folder, arguments.shards, params["data"], params["evaluate"], params["sampler"], "cpu"
        )
        quality = measure(context.write_texts(context.sampler, arguments.texts, seed=1), context)
        likelihood = {"bound": measure_bound(context)[1], "causal": measure_causal(context)}
        rows.append({"seed": seed, **quality, **likelihood})
        write_json(
            arguments.out, {"texts": arguments.texts, "sampler": params["sampler"].to_dict(), "rows": rows}
        )


if __name__ == "__main__":
    main()
