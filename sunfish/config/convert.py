"""Plain values -> a frozen dataclass, or an error that says where and what would be right: params.yaml, and
any JSON.

    build(ModelConfig, {"width": 128, ...}, "params.yaml: model")
    build(Manifest, {"format": 8, ...}, "folder/manifest.json:")

A union of sections is told apart by their key `kind`: `Annotated[Any, REGISTRY]` takes its kinds from a
dictionary."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from typing import Annotated, Any, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from sunfish.errors import InvalidValue, UserError

T = TypeVar("T")
NAMES: dict[type, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


class ConfigError(UserError):
    """Values that cannot be used; the message says where and what would be right."""


def build(cls: type[T], values: Any, where: str) -> T:
    """Return `values` as the dataclass `cls`; `where` begins every message. A file's name ends with a colon.

    Raises:
        ConfigError: an unknown or missing key, a wrong type, an impossible value.
    """
    if values is None:
        advice = "`python -m sunfish.config compose` writes it from conf/"
        raise ConfigError(f"{where.removesuffix(':')}: this section is missing; {advice}")
    if not isinstance(values, dict):
        advice = " (was it set by `--no-hydra -S section=name`? leave --no-hydra out)"
        _refuse(where, values, "a section with keys", advice if isinstance(values, str) else "")
    hints = get_type_hints(cls, include_extras=True)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    names = [field.name for field in fields]
    for key, value in values.items():
        if key not in names:
            name = repr(str(key))[1:-1]  # whatever characters it has
            raise ConfigError(f"{_at(where, name)} = {_show(value)}: unknown key{nearest(name, names)}")
    for name in (field.name for field in fields if field.default is dataclasses.MISSING):
        if name not in values:
            raise ConfigError(f"{_at(where, name)}: this key is missing; it should be {_name(hints[name])}")
    built = {name: convert(hints[name], values[name], _at(where, name)) for name in names if name in values}
    try:
        return cls(**built)
    except InvalidValue as error:
        shown = _show(values.get(error.key))
        raise ConfigError(f"{_at(where, error.key)} = {shown}: {error.reason}") from error


def convert(hint: Any, value: Any, where: str) -> Any:
    """Return `value` as the type `hint`, or say what it should be. 1 is a float; True and NaN are none."""
    origin, choices = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(choices, value, where)
    if origin is Annotated:
        return _convert_registered(choices[1], value, where)
    if origin is Literal:
        if value in choices and type(value) in {type(c) for c in choices}:
            return value
        names = ", ".join(map(str, choices))
        raise ConfigError(f"{where} = {_show(value)}: should be one of {names}{nearest(str(value), choices)}")
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where} = {_show(value)}: should be a list [...] of {_name(choices[0])}")
        return tuple(convert(choices[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            _refuse(where, value, "a section of named entries")
        return {str(name): convert(choices[1], item, _at(where, str(name))) for name, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, where)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        _refuse(where, value, _name(hint))
    if hint is float and not math.isfinite(value):
        raise ConfigError(f"{where} = {_show(value)}: should be a finite number")
    return value


def _convert_union(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    """`X | None` takes null; a union of sections is told apart by their key `kind`."""
    if type(None) in choices:
        rest = tuple(choice for choice in choices if choice is not type(None))
        return None if value is None else convert(typing.Union[rest], value, where)
    kinds = {get_args(get_type_hints(choice)["kind"])[0]: choice for choice in choices}
    return _convert_registered(kinds, value, where)


def _convert_registered(kinds: dict[str, type], value: Any, where: str) -> Any:
    kind = value.get("kind") if isinstance(value, dict) else value
    if kind not in kinds:
        hint = f"{', '.join(kinds)}{nearest(str(kind), kinds)}"
        raise ConfigError(f"{_at(where, 'kind')} = {_show(kind)}: should be one of {hint}")
    return build(kinds[kind], value, where)


def flatten(value: Any, name: str = "") -> dict[str, Any]:
    """Return `key.key -> value` of a dataclass or a dictionary that holds dataclasses or dictionaries."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if not isinstance(value, dict):
        return {name: value}
    parts = (flatten(inner, f"{name}.{key}" if name else key) for key, inner in value.items())
    return {key: inner for part in parts for key, inner in part.items()}


def nearest(word: str, names: typing.Iterable[Any]) -> str:
    """Return a hint: the name most like `word`, or all of them."""
    close = difflib.get_close_matches(word, [str(n) for n in names], n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(map(str, names))}"


def _at(where: str, key: str) -> str:
    return f"{where} {key}" if where.endswith(":") else f"{where}.{key}"


def _refuse(where: str, value: Any, should: str, advice: str = "") -> NoReturn:
    where = where.removesuffix(":")
    raise ConfigError(f"{where} = {_show(value)}: should be {should}, not {_kind(value)}{advice}")


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _kind(value: Any) -> str:
    names = NAMES | {bool: "true/false", list: "a list", dict: "a section"}
    return "empty" if value is None else names.get(type(value), type(value).__name__)


def _name(hint: Any) -> str:
    return NAMES.get(hint, str(hint).replace("typing.", "").replace("Literal", "one of "))
