"""A trained denoiser on disk: weights, configuration, tokenizer and noise schedule."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sunfish.config.convert import build
from sunfish.config.schema.model import ModelConfig
from sunfish.diffusion.lengths import AnswerLengths, RowLengths
from sunfish.diffusion.schedule import NoiseSchedule
from sunfish.digests import check_digests, write_digests
from sunfish.errors import UserError
from sunfish.files import read_json, replacing, sha256, write_json
from sunfish.model.denoiser import Denoiser

FORMAT = 3
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
FILES = ("config.json", "model.safetensors", "noise_schedule.json", *TOKENIZER_FILES)
REMEDY = "run the pretrain stage again (`dvc repro pretrain`)"


C = TypeVar("C")


@dataclass(frozen=True)
class FolderConfig:
    """`config.json`."""

    format: int
    model: ModelConfig
    vocab_size: int
    row_lengths: RowLengths
    end_id: int
    can_check: bool  # the causal pass was trained
    answers: AnswerLengths | None = field(default=None, kw_only=True)  # None: takes no instructions


@dataclass(frozen=True)
class StoredDenoiser:
    """What `read_denoiser` returns: the model in evaluation mode and what belongs to it."""

    denoiser: Denoiser
    schedule: NoiseSchedule
    config: FolderConfig
    folder: Path

    @property
    def lengths(self) -> RowLengths:
        """Return how long rows are."""
        return self.config.row_lengths

    def digest(self) -> str:
        """Return the sha256 of the weights, the model's name in every later record."""
        return sha256(self.folder / "model.safetensors")


Weights = dict[str, Tensor]


def write_denoiser(
    out: Path, config: FolderConfig, weights: Weights, schedule: NoiseSchedule, tokenizer: Path
) -> None:
    """Write the folder whole or not at all; `tokenizer` is a folder that holds one."""
    write_folder(out, config, weights, tokenizer, {"noise_schedule.json": schedule.to_json()})


def write_folder(
    out: Path, config: FolderConfig, weights: Weights, tokenizer: Path, others: dict[str, Any] | None = None
) -> None:
    """Write a model's folder whole or not at all, with `others` as JSON files by name."""
    with replacing(out) as folder:
        folder.mkdir()
        save_weights(folder, weights)
        for name, values in {"config.json": dataclasses.asdict(config), **(others or {})}.items():
            write_json(folder / name, values)
        for name in TOKENIZER_FILES:
            shutil.copyfile(tokenizer / name, folder / name)
        write_digests(folder)


def read_denoiser(folder: Path) -> StoredDenoiser:
    """Read what `write_denoiser` wrote.

    Raises:
        UserError: a missing, altered or unreadable file, or one that another version wrote.
    """
    config = read_config(folder, FolderConfig, FORMAT, FILES, REMEDY)
    try:
        schedule = NoiseSchedule.from_json(read_json(folder / "noise_schedule.json"))
    except (KeyError, TypeError, ValueError) as error:
        says = f"{folder / 'noise_schedule.json'}: is no noise schedule ({error!r})"
        raise UserError(f"{says}; {REMEDY}") from error
    denoiser = Denoiser(config.model, config.vocab_size)
    denoiser.load_state_dict(load_weights(folder, denoiser.state_dict(), REMEDY))
    return StoredDenoiser(denoiser.eval(), schedule, config, folder)


def read_config(
    folder: Path, cls: type[C], wanted: int, files: tuple[str, ...], remedy: str, name: str = "config.json"
) -> C:
    """Read what a model's folder says of itself, and hold the folder's files against their digests.

    Raises:
        UserError: another version wrote the folder, or a file is missing or altered.
    """
    path = folder / name
    values = read_json(path)
    found = values.get("format") if isinstance(values, dict) else None
    if found != wanted:
        raise UserError(f"{path}: is of format {found}, this version reads format {wanted}; {remedy}")
    check_digests(folder, files, remedy)
    return build(cls, values, f"{path}:")


def save_weights(folder: Path, weights: Weights) -> None:
    """Write `model.safetensors`."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    save_file(whole, folder / "model.safetensors")


def load_weights(folder: Path, expected: Weights, remedy: str) -> Weights:
    """Read `model.safetensors`, held against the names and shapes of a model's own.

    Raises:
        UserError: it cannot be read, or holds other tensors.
    """
    path = folder / "model.safetensors"
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be loaded ({error}); {remedy}") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    if shapes != wanted:
        wrong = sorted(name for name in {*shapes, *wanted} if shapes.get(name) != wanted.get(name))
        raise UserError(f"{path}: does not hold the configured model (see {', '.join(wrong[:3])}); {remedy}")
    return weights
