"""The numbers in README.md and docs/NUMBERS.md, from committed files: `docs/*.md.jinja` filled in.

python -m benchmarks.numbers
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sunfish.files import write_text

ROOT = Path(__file__).parent.parent
FIRST, NEXT = "## What it writes\n", "## Changing things\n"
TIMED = "4f1e243"  # the commit whose steps the page shows, timed on the machine that the page names
METRICS = ("pretrain", "evaluate", "distill", "export")
FORMS: dict[str, Callable[[float], str]] = {
    f"f{digits}": f"{{:.{digits}f}}".format for digits in range(4)
} | {
    "percent": lambda value: f"{100 * value:.1f}%",
    "whole": "{:,.0f}".format,
    "digits3": lambda value: f"{value:.3g}" if value < 1000 else f"{value:,.0f}",
    "comma1": "{:,.1f}".format,
    "comma2": "{:,.2f}".format,
}
Read = Callable[[str], str]  # a path in the project -> its text


def main() -> None:
    """Write both anew."""
    for name, text in with_numbers(lambda name: (ROOT / name).read_text(encoding="utf-8")).items():
        write_text(ROOT / name, text)


def with_numbers(read: Read) -> dict[str, str]:
    """Return the README, of which a part is filled in, and the page of all numbers, with those of the files
    that `read` returns.
    """
    loader, blocks = (
        FileSystemLoader(ROOT / "docs"),
        {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True},
    )
    environment = Environment(loader=loader, autoescape=False, undefined=StrictUndefined, **blocks)
    environment.filters |= FORMS
    numbers = gather(read)
    headline, page = (
        environment.get_template(f"{name}.md.jinja").render(numbers) for name in ("headline", "numbers")
    )
    before, rest = read("README.md").split(FIRST)
    return {"README.md": before + headline + NEXT + rest.split(NEXT)[1], "docs/NUMBERS.md": page}


def gather(read: Read) -> dict[str, Any]:
    """Return all that the template names."""
    numbers = {name: json.loads(read(f"metrics/{name}.json")) for name in METRICS}
    trainings = json.loads(read("benchmarks/ablation.json"))["trainings"]
    one_step = json.loads(read("benchmarks/ablation_one_step.json"))["trainings"]
    measured = [json.loads(line) for line in read("benchmarks/results.jsonl").splitlines()]
    committed = {"seed": 0, **numbers["evaluate"]["samples"], **numbers["evaluate"]["bound"]}
    real = {
        name: json.loads(read(f"pipelines/baselines/{name}.json"))["held_out"]
        for name in ("fineweb_sample", "real_text", "tinystories")
    }
    return {
        **numbers,
        "params": yaml.safe_load(read("params.yaml")),
        "samples": read("samples/samples.txt").split("\n\n"),
        "twins": json.loads(read("pipelines/baselines/results.json")),
        "elsewhere": json.loads(read("benchmarks/another_machine.json")),
        "mistakes": json.loads(read("benchmarks/mistakes.json")),
        "seeds": [committed, *json.loads(read("benchmarks/seeds.json"))["trainings"]],
        "founding": next(row for row in trainings if row["lever"] == "all at once, eps_mse, cosine law"),
        "longer": next(row for row in one_step if "pretrain.steps=15000" in row["told"]),
        "large": json.loads(read("pipelines/baselines/stories_35m.json")),
        "long": json.loads(read("pipelines/baselines/long_stories.json")),
        "documents": {name: _with_errors(held_out) for name, held_out in real.items()},
        "gpu": _gpu_seconds(measured),
        "engines": _steps(measured),
    }


def _with_errors(held_out: dict[str, Any]) -> dict[str, str]:
    return {
        kind: f"{row['nats_per_token']:.2f} ± {row['nats_per_token_standard_error']:.2f}"
        for kind, row in held_out.items()
    }


def _steps(lines: list[dict[str, Any]]) -> dict[tuple[str, int, int], dict[str, Any]]:
    """Return what was measured of a sampling step, by model, batch and length, and by engine."""
    steps: dict[tuple[str, int, int], dict[str, Any]] = {}
    for line in lines:
        if (line["what"], line["commit"]) == ("sampling step", TIMED):
            steps.setdefault((line["model"], line["batch"], line["length"]), {})[line["engine"]] = line
    return steps


def _gpu_seconds(lines: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Return the last seconds of `full` by engine, of DDPM 1000, DDIM 50 and DDIM 10."""
    seconds: dict[tuple[str, str], float] = {
        (line["engine"], line["sampler"]): line["seconds"]["median"]
        for line in lines
        if line["what"] == "GPU sampling"
        and (line["model"], line["length"], line["batch"]) == ("full", 512, 1)
    }
    engines, walks = (
        {"compiled": "compiled", "float8": "compiled, float8", "eager": "eager"},
        ("ddpm_1000", "ddim_50", "ddim_10"),
    )
    return {name: [f"{seconds[engine, walk]:.3g}" for walk in walks] for name, engine in engines.items()}


if __name__ == "__main__":
    main()
