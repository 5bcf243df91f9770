"""Loss against size and operations: SunFish's two passes and both baselines at equal operations, fitted, and
what the fit says of larger models before there are any.

python -m benchmarks.laws data/shards --folder runs/laws      # two hours of two cores; what is there is kept

The loss is what lies above the grammar's own entropy, nats a story: a size^-alpha + b tokens^-beta.
Source: Hoffmann et al. 2022, eq. 10, with the entropy known instead of fitted.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import curve_fit

from benchmarks.record import composed, recipe_of
from pipelines.baselines.compare import KINDS, measure_held_out, read_own
from pipelines.baselines.train import train
from sunfish.errors import report_errors
from sunfish.evaluation.context import EvalContext
from sunfish.files import read_json, write_json
from sunfish.model.initial import count_parameters
from sunfish.text.batches import RowDataset
from sunfish.text.shards import Shards
from sunfish.training.cost import step_operations
from sunfish.training.parallel import flushing_denormals
from sunfish.training.run import Job, Places, pretrain

SIZES = {
    "0.2M": (2, 64),
    "0.5M": (2, 128),
    "1.5M": (3, 192),
    "5M": (6, 256),
    "20M": (8, 448),
}  # layers, width
HEAD_DIM = 16
BUDGETS = 3e12, 1e13, 3e13  # operations of each training
MIN_STEPS = 100  # shorter trainings are left out: they say more of the warm-up than of the size
TARGETS = {"35M": 35e6, "350M": 350e6, "1.4B": 1.4e9}  # parameters, predicted at
TOKENS_A_PARAMETER = 20
MOST = 300.0  # log loss: beyond it a prediction says nothing, and its exponential is no number
DRAWS = 1_000  # of a fit's parameters, for the spread of what it predicts

Params = dict[str, Any]
Array = np.ndarray


class Law(NamedTuple):
    """log a, alpha, log b, beta, their covariance, and the explained share of the variance of log loss."""

    values: Array
    covariance: Array
    r_squared: float

    def to_dict(self) -> dict[str, Any]:
        """Return it with predictions: the median loss, and where two thirds of the fit's draws lie."""
        errors = np.sqrt(np.diag(self.covariance))
        names = ("log_a", "alpha", "log_b", "beta")
        drawn = np.random.default_rng(0).multivariate_normal(self.values, self.covariance, DRAWS)
        logs = {name: [log_loss(at(size), *row) for row in drawn] for name, size in TARGETS.items()}
        spread = {name: np.quantile(values, (0.5, 1 / 6, 5 / 6)) for name, values in logs.items()}
        predicted = {name: np.exp(np.minimum(values, MOST)).tolist() for name, values in spread.items()}
        fitted = {name: [float(v), float(e)] for name, v, e in zip(names, self.values, errors, strict=True)}
        return {**fitted, "r_squared": self.r_squared, "predicted": predicted}


def at(size: float) -> Array:
    """Return log size and log tokens, of a model trained on as many tokens as is usual."""
    return np.log([size, TOKENS_A_PARAMETER * size])


def log_loss(logs: Array, log_a: float, alpha: float, log_b: float, beta: float) -> Array:
    """Return log(a size^-alpha + b tokens^-beta) of `logs`, (2, ...)."""
    return np.logaddexp(log_a - alpha * logs[0], log_b - beta * logs[1])


def fit(sizes: Iterable[float], tokens: Iterable[float], losses: Iterable[float]) -> Law:
    """Fit the law to the logarithm of losses."""
    logs, wanted = np.log([list(sizes), list(tokens)]), np.log(list(losses))
    start = (wanted.mean() + 0.3 * logs[0].mean(), 0.3, wanted.mean() + 0.3 * logs[1].mean(), 0.3)
    values, covariance = curve_fit(log_loss, logs, wanted, start, maxfev=20_000)
    residual = wanted - log_loss(logs, *values)
    return Law(values, covariance, float(1 - residual.var() / wanted.var()))


def cell_params(size: str, budget: float, shards: Shards, overrides: list[str]) -> Params | None:
    """Return the configuration of one training, or None where it would be too short."""
    layers, width = SIZES[size]
    shape = [f"model.num_layers={layers}", f"model.width={width}", f"model.num_heads={width // HEAD_DIM}"]
    params = composed(*shape, "tracking=off", *overrides)
    length = RowDataset(shards, "train", params["data"]).lengths().median
    rows = params["pretrain"].batch_rows
    each = step_operations(params["model"], params["diffusion"], shards.vocab_size, rows, length)
    steps = round(budget / each)
    if steps < MIN_STEPS:
        return None
    asked = [f"pretrain.steps={steps}", f"pretrain.optim.warmup_steps={min(100, steps // 10)}"]
    return {**composed(*shape, "tracking=off", *overrides, *asked), "tokens": steps * rows * length}


def run_cell(params: Params, shards: Shards, folder: Path) -> dict[str, Any]:
    """Train the denoiser and both baselines with as many operations, and measure them on held-out stories."""
    if not (folder / "cell.json").is_file():
        places = Places(
            shards.folder, folder / "denoiser", folder / "metrics.json", folder / "curve.csv", folder / "runs"
        )
        pretrain(Job(params["data"], recipe_of(params), params["launch"], params["tracking"]), places)
        for kind in KINDS:
            train(kind, params, shards.folder, folder / kind)
        sections = params["data"], params["evaluate"], params["sampler"]
        context = EvalContext.read(folder / "denoiser", shards.folder, *sections)
        found = measure_held_out(context, {kind: read_own(folder / kind, context) for kind in KINDS})
        size = count_parameters(params["model"], shards.vocab_size)
        loss = {name: numbers["excess_nats_per_row"] for name, numbers in found.items()}
        write_json(folder / "cell.json", {"size": size, "tokens": params["tokens"], "loss": loss})
    cell: dict[str, Any] = read_json(folder / "cell.json")
    return cell


def fit_all(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the law of each loss."""
    sizes, tokens = ([cell[key] for cell in cells] for key in ("size", "tokens"))
    names = cells[0]["loss"]
    return {name: fit(sizes, tokens, [cell["loss"][name] for cell in cells]).to_dict() for name in names}


@report_errors
@flushing_denormals()
def main() -> None:
    """Train what is not there yet, and fit."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("shards", type=Path, help="of stories, whose entropy is known")
    parser.add_argument("--folder", type=Path, default=Path("runs/laws"))
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/laws.json"))
    parser.add_argument("--budgets", type=float, nargs="+", default=BUDGETS)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("overrides", nargs="*", help="of the configuration, e.g. launch.num_threads=1")
    arguments = parser.parse_intermixed_args()
    shards, cells = Shards(arguments.shards), []
    for budget, size in itertools.product(sorted(arguments.budgets), arguments.sizes):
        params = cell_params(size, budget, shards, arguments.overrides)
        if params is not None:
            cells.append(run_cell(params, shards, arguments.folder / f"{size}-{budget:.0e}"))
    laws = fit_all(cells) if len(cells) > 4 else {}
    write_json(arguments.out, {"cells": cells, "laws": laws, "tokens_a_parameter": TOKENS_A_PARAMETER})


if __name__ == "__main__":
    main()
