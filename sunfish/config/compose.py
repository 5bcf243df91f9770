"""conf/ -> params.yaml (compose); params.yaml -> frozen dataclasses, or a clear error (check).

Section `model` is the dataclass `ModelConfig` in `sunfish/config/schema/model.py`, and so for every other but
`schedule`, whose classes are those of `SCHEDULES`. `plugins` names modules to import first, which may add to
the registries (CONTRIBUTING.md).

    python -m sunfish.config compose model=full data=fineweb
    python -m sunfish.config check
"""

from __future__ import annotations

import argparse
import importlib
import typing
from pathlib import Path
from typing import Annotated, Any

from sunfish.config.convert import ConfigError, convert, nearest
from sunfish.errors import UserError, report_errors
from sunfish.files import write_text
from sunfish.plugins import load_plugins

CONF_DIR = Path(__file__).parents[2] / "conf"
QUOTES = (
    """; write key=value, and quote signs other than a-z, 0-9 and ./-_ twice: 'paths=["größe [1].jsonl"]'"""
)
SECTIONS = (
    "data", "model", "schedule", "diffusion", "sampler", "pretrain", "lora", "validate", "evaluate", "export",
    "launch", "tracking",
)  # fmt: skip


def read_section(params_path: Path, name: str) -> Any:
    """Return one section of params.yaml as its dataclass.

    Raises:
        ConfigError: no such file or section, an unknown or missing key, a wrong type, an impossible value.
    """
    return _section(_load(params_path), name, params_path)


def _section(params: dict[str, Any], name: str, params_path: Path) -> Any:
    if name == "schedule":
        schedules = importlib.import_module("sunfish.diffusion.schedules")  # loads numpy: only where needed
        hint: Any = Annotated[Any, schedules.SCHEDULES]
    else:
        module = importlib.import_module(f"sunfish.config.schema.{name}")
        hint = getattr(module, f"{name.title()}Config")
    return convert(hint, params.get(name), f"{params_path}: {name}")


def _load(params_path: Path) -> dict[str, Any]:
    """Return params.yaml as plain values, its plugins imported."""
    from omegaconf import OmegaConf  # reads 3e-4 as a number, as Hydra does; PyYAML would not

    if not params_path.is_file():
        advice = "`python -m sunfish.config compose` writes it from conf/"
        raise ConfigError(f"{params_path}: no such file; {advice}")
    _refuse_aliases(params_path)
    try:
        params = OmegaConf.to_container(OmegaConf.load(params_path), resolve=True)
    except Exception as error:
        raise ConfigError(f"{params_path}: cannot be read as YAML: {error}") from error
    if not isinstance(params, dict):
        sections = ", ".join(SECTIONS)
        raise ConfigError(f"{params_path}: should hold the sections {sections}, but holds {params!r:.60}")
    unknown = [str(key) for key in params if key not in (*SECTIONS, "plugins")]
    if unknown:
        raise ConfigError(f"{params_path}: {unknown[0]}: unknown section{nearest(unknown[0], SECTIONS)}")
    plugins = convert(tuple[str, ...], params.get("plugins", []), f"{params_path}: plugins")
    try:
        load_plugins(plugins)
    except UserError as error:
        raise ConfigError(f"{params_path}: plugins: {error}") from error
    return typing.cast(dict[str, Any], params)


def compose(overrides: list[str], params_path: Path, conf_dir: Path = CONF_DIR) -> None:
    """Write params.yaml as `dvc exp run -S OVERRIDE...` would: conf/config.yaml's defaults plus overrides.

    The file is replaced only when the composition is one that can run."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException, OverrideParseException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_dir(str(conf_dir.resolve()), version_base=None):
            config = hydra_compose("config", overrides=overrides)
        text = OmegaConf.to_yaml(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        is_unquoted = isinstance(error, OverrideParseException)
        hint = QUOTES if is_unquoted else _nearest_key(str(error), params_path)
        raise ConfigError(f"{conf_dir}: {str(error).splitlines()[0]}{hint}") from error
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
    """Return a hint for "Could not override 'model.num_hed'" from the params.yaml that is there."""
    key = message.split("'")[1] if message.startswith("Could not override '") else ""
    section, _, rest = key.rpartition(".")
    values: Any = _load(params_path) if rest and params_path.is_file() else {}
    for name in section.split("."):
        values = values.get(name, {}) if isinstance(values, dict) else {}
    return nearest(rest, values) if values else ""


def _refuse_aliases(path: Path) -> None:
    """Refuse YAML aliases: nine nested lines of them stand for billions of values."""
    import yaml

    try:
        tokens = yaml.scan(path.read_text(encoding="utf-8"))
        found = any(isinstance(token, yaml.AliasToken) for token in tokens)
    except (yaml.YAMLError, UnicodeDecodeError):
        return  # OmegaConf says what is wrong
    if found:
        raise ConfigError(f"{path}: YAML aliases (*name) are not allowed; write the values out")


def check(params_path: Path) -> dict[str, Any]:
    """Return every section of params.yaml as its dataclass, or raise ConfigError for the first bad one."""
    params = _load(params_path)
    built = {name: _section(params, name, params_path) for name in SECTIONS}
    _require_consistent(built, params_path)
    return built


def _require_consistent(built: dict[str, Any], params_path: Path) -> None:
    """Refuse what each section allows and another does not."""
    from sunfish.diffusion.objectives import OBJECTIVES

    diffusion, sampler, model = built["diffusion"], built["sampler"], built["model"]
    if sampler.check is not None and diffusion.check_weight == 0.0:
        raise ConfigError(
            f"{params_path}: sampler.check: the model does not learn to check (diffusion.check_weight = 0); "
            "set sampler.check to null, or diffusion.check_weight above 0"
        )
    if model.output_prior and not OBJECTIVES[diffusion.objective].trains_embeddings:
        raise ConfigError(
            f"{params_path}: model.output_prior = True: is not trained under diffusion.objective = "
            f"{diffusion.objective}; set it to false"
        )


@report_errors
def main() -> None:
    """Compose or check params.yaml."""
    parser = argparse.ArgumentParser(prog="python -m sunfish.config", description=main.__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the file to write or check")
    verbs = parser.add_subparsers(dest="verb", required=True)
    says = "write params.yaml from conf/ and overrides such as model=full"
    composing = verbs.add_parser("compose", help=says)
    composing.add_argument("overrides", nargs="*")
    verbs.add_parser("check", help="say whether params.yaml can run")
    arguments = parser.parse_args()
    if arguments.verb == "compose":
        compose(arguments.overrides, arguments.params)
    check(arguments.params)
    written = "written, " if arguments.verb == "compose" else ""
    print(f"{arguments.params}: {written}every section is complete and can run")
