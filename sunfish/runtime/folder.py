"""An exported folder, its files held against their digests and read into dataclasses; torch-free."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sunfish.config.convert import build, convert
from sunfish.config.schema.model import ModelConfig
from sunfish.config.schema.sampler import SamplerConfig
from sunfish.diffusion.lengths import AnswerLengths, RowLengths
from sunfish.diffusion.schedule import NoiseSchedule
from sunfish.digests import NAME as DIGESTS
from sunfish.digests import check_digests
from sunfish.errors import UserError
from sunfish.files import read_json
from sunfish.sampling.onnx_backend import FORMAT, PRECISIONS, graph_names, graph_path, weights_path

REMEDY = "export the model again (`dvc repro export`), or copy the whole folder"
JSON_FILES = ("config", "manifest", "noise_schedule", "plan", "tokenizer", "tokenizer_config")
TEXT_FILES = ("README.md", *(f"{name}.json" for name in JSON_FILES))


@dataclass(frozen=True)
class Measured:
    """How good texts were by one sampler, as an evaluation found."""

    sampler: str
    steps: int
    check: bool
    consistent: float | None  # share of texts; None without a grammar to judge them
    valid: float | None  # share of sentences


@dataclass(frozen=True)
class ExportedConfig:
    """`config.json`."""

    format: int
    model: ModelConfig
    vocab_size: int
    row_lengths: RowLengths
    end_id: int
    can_check: bool
    sampler: SamplerConfig  # what the folder recommends
    measured: tuple[Measured, ...] = ()
    answers: AnswerLengths | None = None  # None: takes no instructions


def read_config(folder: Path) -> ExportedConfig:
    """Read an exported folder's configuration.

    Raises:
        UserError: no such folder, one of another format, or values that cannot be used.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: is not an exported model (it has no config.json); {REMEDY}")
    values = _section(path)
    if values.get("format") != FORMAT:
        says = f"is of format {_format(folder, values)}, this version reads format {FORMAT}"
        raise UserError(f"{folder}: {says}; {REMEDY}")
    return build(ExportedConfig, values, f"{path}:")


def _format(folder: Path, values: dict[str, Any]) -> Any:
    """Return the format that a folder says it has; older ones say it in the manifest."""
    manifest = folder / "manifest.json"
    return values.get("format") or (_section(manifest).get("format") if manifest.is_file() else None)


def _section(path: Path) -> dict[str, Any]:
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: should hold named values, but holds {json.dumps(values):.60}; {REMEDY}")
    return values


def choose_precision(folder: Path, wanted: str | None) -> str:
    """Return the precision that is wanted, or else the most exact one that the folder holds."""
    if wanted is not None:
        return wanted
    listed = _section(folder / DIGESTS) if (folder / DIGESTS).is_file() else {}
    names = {each: weights_path(folder, each).relative_to(folder).as_posix() for each in PRECISIONS}
    return next((each for each in PRECISIONS if names[each] in listed), PRECISIONS[0])


def check_files(folder: Path, config: ExportedConfig, precision: str) -> None:
    """Hold the files that sampling at a precision needs against their digests.

    Raises:
        UserError: no such precision, or a missing or altered file, by name.
    """
    if precision not in PRECISIONS:
        raise UserError(f"--precision = {precision}: must be one of {', '.join(PRECISIONS)}")
    if not weights_path(folder, precision).exists():
        listed = _section(folder / DIGESTS)
        if weights_path(folder, precision).relative_to(folder).as_posix() not in listed:
            advice = "take the other precision, or export it again"
            raise UserError(f"{folder}: holds no {precision} graphs; {advice}")
    check_digests(folder, needed_files(folder, config, precision), REMEDY)


def needed_files(folder: Path, config: ExportedConfig, precision: str) -> list[str]:
    """Return the files that a folder must hold to be sampled from at a precision."""
    paths = [graph_path(folder, name, precision) for name in graph_names(config.can_check)]
    paths.append(weights_path(folder, precision))
    return [*TEXT_FILES, *(path.relative_to(folder).as_posix() for path in paths)]


def read_schedule(folder: Path) -> NoiseSchedule:
    """Read `noise_schedule.json`.

    Raises:
        UserError: it is no noise schedule.
    """
    path = folder / "noise_schedule.json"
    values = convert(dict[str, tuple[float, ...]], read_json(path), f"{path}:")
    try:
        return NoiseSchedule.from_json({name: list(numbers) for name, numbers in values.items()})
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: is no noise schedule ({error}); {REMEDY}") from error
