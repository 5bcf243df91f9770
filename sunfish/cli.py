"""sunfish generate | infill | info: the command line over an exported folder. A face, no logic."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from sunfish.problems import Problem, report_problems

MODEL = click.option(
    "--model", "folder", type=click.Path(path_type=Path), default="models/onnx", envvar="SUNFISH_MODEL", show_default=True,
    help="Folder of an exported model.",
)  # fmt: skip
SAMPLING = [
    MODEL,
    click.option("--num", type=int, default=1, show_default=True, help="How many texts."),
    click.option("--sampler", type=click.Choice(["ddim", "ddpm", "dpm-solver"]), help="[default: the model's]"),
    click.option("--steps", type=int, help="Denoiser calls per text: more is better and slower.  [default: the model's]"),
    click.option("--eta", type=float, help="Of ddim: 0 deterministic ... 1 ancestral.  [default: the model's]"),
    click.option("--temperature", type=float, help="Below 1: safer words, less variety.  [default: the model's]"),
    click.option("--settle", type=float, help="Fix a word once the model is this sure of it; 1: never.  [default: the model's]"),
    click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same text."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON for programs."),
    click.option("--watch", is_flag=True, help="Show each text come out of the noise, step by step; in a terminal."),
]


def sampling(command: Any) -> Any:
    """Add the options that generate and infill share."""
    for option in reversed(SAMPLING):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sunfish")
def main() -> None:
    """Write text by diffusion, all positions at once, or fill the gaps in a given one."""


@main.command()
@sampling
@click.option("--length", type=int, help="Tokens per text at most.  [default: the model's]")
@click.option("--prompt", help="How every text begins.")
@report_problems
def generate(folder: Path, num: int, length: int | None, prompt: str | None, as_json: bool, watch: bool, **settings: Any) -> None:
    """Write NUM texts."""
    from sunfish.runtime.sampler import Sampler, Settings

    _require_terminal(watch, as_json)
    sampler, told = Sampler.load(folder), Settings(**settings)
    if watch:
        _watch(sampler.stream(num, length, prompt, told))
    else:
        _show(sampler.generate(num, length, prompt, told), as_json, {"prompt": prompt, **settings})


@main.command()
@sampling
@click.argument("text")
@report_problems
def infill(folder: Path, text: str, num: int, as_json: bool, watch: bool, **settings: Any) -> None:
    """Fill the gaps in TEXT: [MASK] is one token, [MASK:n] is n."""
    from sunfish.runtime.sampler import Sampler, Settings

    _require_terminal(watch, as_json)
    sampler, told = Sampler.load(folder), Settings(**settings)
    if watch:
        _watch(sampler.stream_infill(text, num, told))
    else:
        _show(sampler.infill(text, num, told), as_json, {"text": text, **settings})


@main.command()
@MODEL
@report_problems
def info(folder: Path) -> None:
    """Say what a folder holds, what made it and how exact it is."""
    from sunfish.files import read_json
    from sunfish.runtime.sampler import check_folder

    click.echo(json.dumps({**read_json(folder / "config.json"), **check_folder(folder)}, indent=2))


def _require_terminal(watch: bool, as_json: bool) -> None:
    if watch and (as_json or not sys.stdout.isatty()):
        raise Problem("--watch draws in a terminal; leave it out to write to a file, a pipe or as JSON")


def _watch(frames: Iterator[Any]) -> None:
    from sunfish.runtime.watch import watch

    watch(frames, sys.stdout)


def _show(texts: list[str], as_json: bool, settings: dict[str, Any]) -> None:
    if as_json:
        click.echo(json.dumps({"texts": texts, "settings": settings}, ensure_ascii=False))
    else:
        click.echo("\n\n".join(texts))


if __name__ == "__main__":
    main()
