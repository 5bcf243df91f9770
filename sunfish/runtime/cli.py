"""sunfish generate | infill | info: the command line over an exported folder. A face, no logic."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from sunfish.errors import UserError, report_errors

EXIT_CODES = "Exit codes: 0 all went well; 1 something you can mend, said in one line; 2 a wrong option; 130 interrupted."
MODEL = click.option(
    "--model", "folder", type=click.Path(path_type=Path), default="models/onnx", envvar="SUNFISH_MODEL", show_default=True,
    help="Folder of an exported model.",
)  # fmt: skip
LOADING = [
    MODEL,
    click.option(
        "--precision",
        type=click.Choice(["fp32", "int8"]),
        default="fp32",
        show_default=True,
        help="int8 is smaller.",
    ),
    click.option(
        "--provider",
        "providers",
        multiple=True,
        envvar="SUNFISH_PROVIDERS",
        help="Of ONNX Runtime, the preferred one first.",
    ),
    click.option("--threads", "num_threads", type=click.IntRange(min=1), help="[default: all usable cores]"),
]
SAMPLING = [
    *LOADING,
    click.option("--num", type=int, default=1, show_default=True, help="How many texts."),
    click.option("--sampler", type=click.Choice(["picard", "ancestral", "ddpm", "ddim", "dpm-solver"]), help="[default: the model's]"),
    click.option(
        "--steps", type=int,
        help="Denoiser calls per text: more is better and slower.  [default: the model's, or as many as --window-steps needs]",
    ),
    click.option("--eta", type=float, help="Of ddim: 0 deterministic ... 1 ancestral.  [default: the model's]"),
    click.option("--temperature", type=float, help="Below 1: safer words, less variety.  [default: the model's]"),
    click.option("--floor", type=float, help="Never draw words less probable than this.  [default: the model's]"),
    click.option("--settle", type=float, help="Fix a word once the model is this sure of it; 1: never.  [default: the model's]"),
    click.option(
        "--window-steps", type=int,
        help="Steps that each word takes; as many as --steps: all at once.  [default: the model's; of ddim, ddpm, dpm-solver at least 4]",
    ),
    click.option("--order", type=click.Choice(["forward", "random"]), help="In which words come out.  [default: the model's]"),
    click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same text."),
    click.option("--batch", type=int, help="Texts denoised together.  [default: as many as take little memory]"),
    click.option("--json", "as_json", is_flag=True, help="Print JSON for programs."),
    click.option("--watch", is_flag=True, help="Show each text come out of the noise, step by step; in a terminal."),
]  # fmt: skip


def sampling(command: Any) -> Any:
    """Add the options that generate and infill share."""
    for option in reversed(SAMPLING):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODES)
@click.version_option(package_name="sunfish")
def main() -> None:
    """Write text by diffusion, or fill the gaps in a given one."""


@main.command()
@sampling
@click.option("--length", type=int, help="Tokens per text at most.  [default: the model's]")
@click.option("--prompt", help="How every text begins.")
@report_errors
def generate(
    num: int, length: int | None, prompt: str | None, as_json: bool, watch: bool, **told: Any
) -> None:
    """Write NUM texts."""
    _require_terminal(watch, as_json)
    sampler, settings = _load(told)
    if watch:
        _watch(sampler.stream(num, length, prompt, settings))
    else:
        _show(sampler.generate(num, length, prompt, settings), as_json, {"prompt": prompt, **told})


@main.command()
@sampling
@click.option(
    "--candidates", type=int, help="Fillings tried, of which the likeliest is taken.  [default: the model's]"
)
@click.argument("text")
@report_errors
def infill(text: str, num: int, as_json: bool, watch: bool, **told: Any) -> None:
    """Fill the gaps in TEXT: [MASK:n] is n tokens, [MASK] as many as fit best, up to eight."""
    _require_terminal(watch, as_json)
    sampler, settings = _load(told)
    if watch:
        _watch(sampler.stream_infill(text, num, settings))
    else:
        _show(sampler.infill(text, num, settings), as_json, {"text": text, **told})


@main.command()
@click.argument("folder", type=click.Path(path_type=Path), default="models/onnx", envvar="SUNFISH_MODEL")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@report_errors
def info(folder: Path, as_json: bool) -> None:
    """Say what FOLDER is, what made it, how exact it is; every file is held against its digest."""
    from sunfish.runtime.info import describe, read_info

    told = read_info(folder)
    click.echo(json.dumps(told, indent=2) if as_json else describe(folder, told))


def _load(told: dict[str, Any]) -> tuple[Any, Any]:
    """Return the sampler and its settings, taking the options that load a folder out of those that are left
    to print.
    """
    from sunfish.runtime.generator import Sampler
    from sunfish.runtime.settings import Settings
    from sunfish.sampling.onnx_backend import CPU

    folder, precision, providers = told.pop("folder"), told["precision"], told.pop("providers") or CPU
    sampler = Sampler.load(folder, precision, providers, told.pop("num_threads"))
    return sampler, Settings(**{name: value for name, value in told.items() if name != "precision"})


def _require_terminal(watch: bool, as_json: bool) -> None:
    if watch and (as_json or not sys.stdout.isatty()):
        raise UserError("--watch draws in a terminal; leave it out to write to a file, a pipe or as JSON")


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
