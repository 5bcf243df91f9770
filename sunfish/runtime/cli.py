"""sunfish generate | write | infill | info: the command line over an exported folder. A face, no logic."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from sunfish.errors import UserError, report_errors
from sunfish.plugins import load_plugins

EXIT_CODES = "Exit codes: 0 all went well; 1 a mistake you can mend; 2 a wrong option; 130 interrupted."
TOLD = Path("models/told/onnx")  # what pipelines/finetune makes here
OWN, SHIPPED = Path("models/onnx"), Path(__file__).parents[1] / "shipped"


def usual_folder() -> Path:
    """Return the model that `make repro` made here, or else the one that is shipped."""
    return OWN if OWN.is_dir() else SHIPPED


FOLDER: dict[str, Any] = {"type": click.Path(path_type=Path), "envvar": "SUNFISH_MODEL"}
FOLDER |= {"default": lambda: usual_folder()}
EXPORTED = "Folder of an exported model.  [default: models/onnx, or else the one that is shipped]"
MODEL = click.option("--model", "folder", help=EXPORTED, **FOLDER)
ADDS = "Python module that adds samplers."
PLUGINS = click.option("--plugin", "plugins", multiple=True, envvar="SUNFISH_PLUGINS", help=ADDS)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
LOADING_OPTIONS = [
    MODEL,
    PLUGINS,
    click.option("--precision", help="fp32 or int8, which is smaller.  [default: fp32 if there is]"),
    click.option(
        "--provider", "providers", multiple=True, envvar="SUNFISH_PROVIDERS",
        help="Of ONNX Runtime, the preferred one first.",
    ),
    click.option("--threads", "num_threads", type=click.IntRange(min=1), help="[default: all usable cores]"),
]  # fmt: skip
SAMPLER_OPTIONS: dict[str, tuple[type, str]] = {  # each is the model's own unless told
    "--sampler": (str, "Of the drafts: ddim, ddpm, dpmpp-2m, heun ..."),
    "--steps": (int, "Calls of the first draft, all positions at once."),
    "--eta": (float, "Of ddim: 0 deterministic ... 1 ancestral."),
    "--churn": (float, "Of churn: how much noise each step adds."),
    "--temperature": (float, "Below 1: safer words, less variety."),
    "--confidence-threshold": (float, "A position keeps its token once it is surer; 1: never early."),
    "--epsilon-cutoff": (float, "Of ddpm-categorical: never draw tokens less probable."),
    "--check-epsilon": (float, "Reject more surprising tokens: 0 none, near 1 many."),
    "--redraft-steps": (int, "Calls of each later draft."),
    "--restart-time": (float, "Noise level that later drafts go back to; 1: pure noise."),
    "--max-rounds": (int, "Checks per text at most."),
}
USUAL = "  [default: the model's]"
SAMPLING_OPTIONS = [
    *LOADING_OPTIONS,
    click.option("--num", type=int, default=1, show_default=True, help="How many texts."),
    *(click.option(name, type=kind, help=text + USUAL) for name, (kind, text) in SAMPLER_OPTIONS.items()),
    click.option("--check/--no-check", default=None, help="Check drafts, correct and draft again." + USUAL),
    click.option("--seed", type=int, help="The same one gives the same text.  [default: drawn, and printed]"),
    click.option("--batch", type=int, help="Texts sampled together.  [default: as take little memory]"),
    JSON,
    click.option("--watch", is_flag=True, help="Show each text come out of the noise; in a terminal."),
]
LOADING = ("folder", "precision", "providers", "num_threads")


def sampling(command: Any) -> Any:
    """Add the options that generate and infill share."""
    for option in reversed(SAMPLING_OPTIONS):
        command = option(command)
    return command


class TextCommand(click.Command):
    """A command whose text may begin with a dash."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put such texts behind `--`, where no option is looked for."""
        texts = [word for word in args if word.startswith("-") and ("[MASK" in word or " " in word)]
        if texts and "--" not in args:
            args = [*(word for word in args if word not in texts), "--", *texts]
        return super().parse_args(ctx, args)


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODES)
@click.version_option(package_name="sunfish-diffusion")
def main() -> None:
    """Write text by diffusion, or fill the gaps in a given one."""


@main.command()
@sampling
@click.option("--length", type=int, help="Tokens per text at most.  [default: as in training]")
@click.option("--prompt", help="How every text begins.")
@click.option("--instruction", help="What to write, for a model that was fine-tuned on instructions.")
@report_errors
def generate(**options: Any) -> None:
    """Write NUM texts."""
    _generate(**options)


@main.command(cls=TextCommand)
@sampling
@click.option("--length", type=int, help="Tokens per text at most.  [default: as in training]")
@click.option("--prompt", help="How every text begins.")
@click.argument("instruction")
@report_errors
def write(**options: Any) -> None:
    """Write NUM texts as INSTRUCTION says, by a model that was fine-tuned on instructions."""
    if options["folder"] == usual_folder() and TOLD.is_dir():
        options["folder"] = TOLD
    _generate(**options)


def _generate(as_json: bool, watch: bool, **options: Any) -> None:
    _require_output(watch, as_json)
    asked = {name: options.pop(name) for name in ("num", "length", "prompt", "instruction")}
    sampler, settings = _load(options)
    asked["settings"] = settings
    if watch:
        return _watch(sampler.stream(**asked))
    about = {name: asked[name] for name in ("prompt", "instruction", "length")}
    about["precision"] = options["precision"]
    _show(sampler.generate(**asked), as_json, about, _used(sampler, settings))


@main.command(cls=TextCommand)
@sampling
@click.argument("text")
@report_errors
def infill(text: str, num: int, as_json: bool, watch: bool, **options: Any) -> None:
    """Fill the gaps in TEXT: [MASK:n] is n tokens, [MASK] one to eight; a [MASK] alone a whole text."""
    _require_output(watch, as_json)
    sampler, settings = _load(options)
    if watch:
        return _watch(sampler.stream_infill(text, num, settings))
    about = {"text": text, "precision": options["precision"]}
    _show(sampler.infill(text, num, settings), as_json, about, _used(sampler, settings, text))


@main.command()
@click.argument("folder", **FOLDER)
@PLUGINS
@JSON
@report_errors
def info(folder: Path, plugins: tuple[str, ...], as_json: bool) -> None:
    """Say what FOLDER is, what made it, how exact it is; every file is held against its digest."""
    from sunfish.runtime.info import describe, read_info

    _require_output(watch=False, as_json=as_json)
    load_plugins(plugins)
    about = read_info(folder)
    _print(json.dumps(about.to_dict(), indent=2) if as_json else describe(folder, about))


@main.command()
@click.argument(
    "folder", type=click.Path(path_type=Path), envvar="SUNFISH_MODEL", default=lambda: usual_folder()
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to serve at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8043, show_default=True, help="0: any free.")
@report_errors
def page(folder: Path, host: str, port: int) -> None:
    """Serve the page on which FOLDER's noise becomes text, until it is interrupted."""
    from sunfish.runtime.serve import page_server

    _require_output(watch=False, as_json=False)
    with page_server(folder, host, port) as server:
        _print(f"http://{host}:{server.server_port}/")
        server.serve_forever()


def _load(options: dict[str, Any]) -> tuple[Any, Any]:
    """Return the sampler and its settings, the seed drawn and said where none is given."""
    import secrets  # what follows takes a third of a second to load, which --help need not wait for

    from sunfish.runtime.generator import Sampler
    from sunfish.runtime.notes import say_note
    from sunfish.runtime.settings import Settings
    from sunfish.sampling.onnx_backend import CPU

    load_plugins(options.pop("plugins"))
    folder, precision, providers, num_threads = (options[name] for name in LOADING)
    sampler = Sampler.load(folder, precision, providers or CPU, num_threads)
    chosen = {name: value for name, value in options.items() if name not in LOADING}
    if chosen["seed"] is None:
        chosen["seed"] = secrets.randbits(32)
        say_note(f"--seed {chosen['seed']}")
    return sampler, Settings(**chosen)


def _used(sampler: Any, settings: Any, infilled: str | None = None) -> dict[str, Any]:
    from sunfish.runtime.prompts import is_gap_alone
    from sunfish.runtime.settings import resolve

    has_gaps = infilled is not None and not is_gap_alone(infilled)
    return resolve(settings, sampler.config, has_gaps=has_gaps).to_dict()


def _require_output(watch: bool, as_json: bool) -> None:
    """Refuse what cannot be printed before anything is written for it; notes are lost where they must be."""
    sys.stderr = sys.stderr or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if sys.stdout is None:
        raise UserError("standard output is closed; open it or write to a file")
    if watch and (as_json or not sys.stdout.isatty()):
        raise UserError("--watch draws in a terminal; leave it out to write to a file, a pipe or as JSON")


def _watch(frames: Iterator[Any]) -> None:
    from sunfish.runtime.watch import watch

    watch(frames, sys.stdout)


def _show(texts: list[Any], as_json: bool, about: dict[str, Any], used: dict[str, Any]) -> None:
    from sunfish.runtime.notes import tell
    from sunfish.runtime.watch import summary

    if as_json:
        rows = [{**vars(text), "seconds": round(text.seconds, 4)} for text in texts]
        values = {"texts": rows, "settings": {**about, **used}}
        return _print(json.dumps(values, ensure_ascii=not _takes_unicode()))
    _print("\n\n".join(map(str, texts)))
    for text in texts:
        tell(summary(text.calls, text.corrected))


def _takes_unicode() -> bool:
    return (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "").startswith("utf")


def _print(text: str) -> None:
    """Print, or say that standard output is closed, or takes no such character."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except UnicodeEncodeError as error:
        says = f"standard output takes {sys.stdout.encoding}, which has no {text[error.start]!r}"
        raise UserError(f"{says}; set PYTHONUTF8=1, or use --json") from error
    except ValueError as error:
        raise UserError(f"standard output cannot be written ({error})") from error


if __name__ == "__main__":
    main()
