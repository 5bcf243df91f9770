"""conf/ -> params.yaml (compose); a section of params.yaml -> a frozen dataclass, or a clear error (check).

Section `model` is the dataclass `ModelConfig` in `sunfish/config/schema/model.py`, and so for every other.

    python -m sunfish.config compose model=full data=fineweb
    python -m sunfish.config check
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import importlib
import sys
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from sunfish.files import write_text
from sunfish.errors import InvalidValue, UserError, report_errors

CONF_DIR = Path(__file__).parents[2] / "conf"
SECTIONS = (
    "data",
    "model",
    "diffusion",
    "sampler",
    "pretrain",
    "validate",
    "evaluate",
    "export",
    "launch",
    "tracking",
)

T = TypeVar("T")


class ConfigError(UserError):
    """A configuration that cannot run; the message says where and what would be right."""


def read_section(params_path: Path, name: str, section: type[T]) -> T:
    """Return one section of params.yaml as its dataclass.

    Raises:
        ConfigError: no such file or section, an unknown or missing key, a wrong type, an impossible value.
    """
    return _build(section, _load(params_path).get(name), f"{params_path}: {name}")


def _load(params_path: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf  # reads 3e-4 as a number, as Hydra does; PyYAML would not

    if not params_path.is_file():
        raise ConfigError(
            f"{params_path}: no such file; `python -m sunfish.config compose` writes it from conf/"
        )
    try:
        params = OmegaConf.to_container(OmegaConf.load(params_path), resolve=True)
    except Exception as error:
        raise ConfigError(f"{params_path}: cannot be read as YAML: {error}") from error
    if not isinstance(params, dict):
        raise ConfigError(
            f"{params_path}: should hold the sections {', '.join(SECTIONS)}, but holds {_show(params)}"
        )
    unknown = [str(key) for key in params if key not in SECTIONS]
    if unknown:
        raise ConfigError(f"{params_path}: {unknown[0]}: unknown section{_nearest(unknown[0], SECTIONS)}")
    return typing.cast(dict[str, Any], params)


def _build(cls: type[T], values: Any, where: str) -> T:
    if values is None:
        raise ConfigError(
            f"{where}: this section is missing; `python -m sunfish.config compose` writes it from conf/"
        )
    if not isinstance(values, dict):
        advice = (
            " (was it set by `--no-hydra -S section=name`? leave --no-hydra out)"
            if isinstance(values, str)
            else ""
        )
        raise ConfigError(
            f"{where} = {_show(values)}: should be a section with keys, not {_kind(values)}{advice}"
        )
    hints = get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key, value in values.items():
        if key not in names:
            raise ConfigError(f"{where}.{key} = {_show(value)}: unknown key{_nearest(str(key), names)}")
    missing = [name for name in names if name not in values]
    if missing:
        raise ConfigError(
            f"{where}.{missing[0]}: this key is missing; it should be {_name(hints[missing[0]])}"
        )
    built = {name: _convert(hints[name], values[name], f"{where}.{name}") for name in names}
    try:
        return cls(**built)
    except InvalidValue as error:
        raise ConfigError(f"{where}.{error.key} = {_show(values.get(error.key))}: {error.reason}") from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Return `value` as the type `hint`, or say what it should be. 1 is a float, but True is no number."""
    origin, choices = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(choices, value, where)
    if origin is Literal:
        if value in choices and type(value) in {type(c) for c in choices}:
            return value
        raise ConfigError(
            f"{where} = {_show(value)}: should be one of {', '.join(map(str, choices))}{_nearest(str(value), choices)}"
        )
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where} = {_show(value)}: should be a list [...] of {_name(choices[0])}")
        return tuple(_convert(choices[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(
                f"{where} = {_show(value)}: should be a section of named entries, not {_kind(value)}"
            )
        return {str(name): _convert(choices[1], item, f"{where}.{name}") for name, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{where} = {_show(value)}: should be {_name(hint)}, not {_kind(value)}")
    return value


def _convert_union(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    """`X | None` takes null; a union of sections is told apart by their key `kind`."""
    if type(None) in choices:
        rest = [c for c in choices if c is not type(None)]
        return (
            None
            if value is None
            else _convert(rest[0] if len(rest) == 1 else typing.Union[tuple(rest)], value, where)
        )
    kinds = {get_args(get_type_hints(choice)["kind"])[0]: choice for choice in choices}
    kind = value.get("kind") if isinstance(value, dict) else value
    if kind not in kinds:
        raise ConfigError(
            f"{where}.kind = {_show(kind)}: should be one of {', '.join(kinds)}{_nearest(str(kind), kinds)}"
        )
    return _build(kinds[kind], value, where)


def _nearest(word: str, names: typing.Iterable[Any]) -> str:
    close = difflib.get_close_matches(word, [str(n) for n in names], n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(map(str, names))}"


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _kind(value: Any) -> str:
    names = {
        str: "text",
        int: "a whole number",
        float: "a number",
        bool: "true/false",
        list: "a list",
        dict: "a section",
    }
    return "empty" if value is None else names.get(type(value), type(value).__name__)


def _name(hint: Any) -> str:
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    return names.get(hint, str(hint).replace("typing.", "").replace("Literal", "one of "))


def compose(overrides: list[str], params_path: Path, conf_dir: Path = CONF_DIR) -> None:
    """Write params.yaml as `dvc exp run -S OVERRIDE...` would: conf/config.yaml's defaults plus overrides,
    checked.

    The file is replaced only when the composition is one that can run.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_dir(str(conf_dir.resolve()), version_base=None):
            config = hydra_compose("config", overrides=overrides)
        text = OmegaConf.to_yaml(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(
            f"{conf_dir}: {str(error).splitlines()[0]}{_nearest_key(str(error), params_path)}"
        ) from error
    candidate = params_path.with_name(params_path.name + ".new")
    write_text(candidate, text)
    try:
        check(candidate)
    except ConfigError as error:
        raise ConfigError(str(error).replace(str(candidate), str(conf_dir))) from error
    finally:
        candidate.unlink()
    write_text(params_path, text)


def _nearest_key(message: str, params_path: Path) -> str:
    """Return a hint for "Could not override 'model.num_hed'" from the keys of the params.yaml that is
    there.
    """
    key = message.split("'")[1] if message.startswith("Could not override '") else ""
    section, _, rest = key.rpartition(".")
    values: Any = _load(params_path) if rest and params_path.is_file() else {}
    for name in section.split("."):
        values = values.get(name, {}) if isinstance(values, dict) else {}
    return _nearest(rest, values) if values else ""


def check(params_path: Path) -> dict[str, Any]:
    """Return every section of params.yaml as its dataclass, or raise ConfigError for the first that cannot
    run.
    """
    params = _load(params_path)
    built = {}
    for name in SECTIONS:
        section = getattr(importlib.import_module(f"sunfish.config.schema.{name}"), f"{name.title()}Config")
        built[name] = _build(section, params.get(name), f"{params_path}: {name}")
    _hold_together(built, params_path)
    return built


def _hold_together(built: dict[str, Any], params_path: Path) -> None:
    """Raise ConfigError for what each section allows and another does not."""
    diffusion = built["diffusion"]
    if not built["model"].told_length and (diffusion.blocks is None or diffusion.blocks.order != "forward"):
        raise ConfigError(
            f"{params_path}: model.told_length = False: a text says itself where it ends only where its words are written from left to "
            "right (diffusion.blocks.order = forward); set it to true"
        )
    wants = (
        ("evaluate", "sampler", "order", "infill_candidates"),
        ("export", "sampler_name", "sampler_order", "sampler_candidates"),
    )
    for section, sampler, order, candidates in wants:
        if not built["model"].told_length and getattr(built[section], order) != "forward":
            raise ConfigError(
                f"{params_path}: {section}.{order} = '{getattr(built[section], order)}': a model that is not told how long a text is "
                "(model.told_length) writes from left to right; set it to forward"
            )
        if getattr(built[section], sampler) == "picard" and diffusion.blocks is None:
            raise ConfigError(
                f"{params_path}: {section}.{sampler} = 'picard': writes one word after another, which is not trained where "
                "diffusion.blocks is null; take another sampler, such as ddpm"
            )
        if getattr(built[section], candidates) > 1 and not (
            diffusion.blocks and diffusion.objective == "ce" and diffusion.blocks.next_token
        ):
            raise ConfigError(
                f"{params_path}: {section}.{candidates} = {getattr(built[section], candidates)}: choosing among fillings needs next tokens "
                "learned (diffusion.objective ce with diffusion.blocks.next_token above 0); set it to 1"
            )


@report_errors
def main() -> None:
    """Compose or check params.yaml."""
    parser = argparse.ArgumentParser(prog="python -m sunfish.config", description=main.__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the file to write or check")
    verbs = parser.add_subparsers(dest="verb", required=True)
    composing = verbs.add_parser(
        "compose", help="write params.yaml from conf/ and overrides such as model=full"
    )
    composing.add_argument("overrides", nargs="*")
    verbs.add_parser("check", help="say whether params.yaml can run")
    arguments = parser.parse_args()
    if arguments.verb == "compose":
        compose(arguments.overrides, arguments.params)
    check(arguments.params)
    print(
        f"{arguments.params}: {'written, ' if arguments.verb == 'compose' else ''}every section is complete and can run"
    )
