"""A trained denoiser on disk: weights, configuration, tokenizer and noise schedule, all that sampling
needs.
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sunfish.config.convert import build
from sunfish.config.schema.model import ModelConfig
from sunfish.diffusion.lengths import RowLengths
from sunfish.diffusion.schedule import NoiseSchedule
from sunfish.digests import check_digests, write_digests
from sunfish.errors import UserError
from sunfish.files import read_json, replacing, sha256, write_json
from sunfish.model.denoiser import Denoiser

FORMAT = 2
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
FILES = ("config.json", "model.safetensors", "noise_schedule.json", *TOKENIZER_FILES)
REMEDY = "run the pretrain stage again (`dvc repro pretrain`)"


@dataclass(frozen=True)
class FolderConfig:
    """`config.json`."""

    format: int
    model: ModelConfig
    vocab_size: int
    row_lengths: RowLengths
    end_id: int
    can_check: bool  # the causal pass was trained
    answers: RowLengths | None = None  # how long answers to instructions are; None: it takes no instructions


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


def write_denoiser(
    out_dir: Path,
    config: FolderConfig,
    weights: dict[str, Tensor],
    schedule: NoiseSchedule,
    tokenizer_dir: Path,
) -> None:
    """Write the folder whole or not at all."""
    with replacing(out_dir) as folder:
        folder.mkdir()
        save_weights(folder, weights)
        write_json(folder / "config.json", dataclasses.asdict(config))
        write_json(folder / "noise_schedule.json", schedule.to_json())
        for name in TOKENIZER_FILES:
            shutil.copyfile(tokenizer_dir / name, folder / name)
        write_digests(folder)


def read_denoiser(folder: Path) -> StoredDenoiser:
    """Read what `write_denoiser` wrote.

    Raises:
        UserError: a missing, altered or unreadable file, or one that another version wrote.
    """
    values = read_json(folder / "config.json")
    require_format(folder / "config.json", values, FORMAT, REMEDY)
    check_digests(folder, FILES, REMEDY)
    config = build(FolderConfig, {"answers": None, **values}, str(folder / "config.json"))
    try:
        schedule = NoiseSchedule.from_json(read_json(folder / "noise_schedule.json"))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder / 'noise_schedule.json'}: is no noise schedule ({error!r}); {REMEDY}"
        ) from error
    denoiser = Denoiser(config.model, config.vocab_size)
    denoiser.load_state_dict(load_weights(folder, denoiser.state_dict(), REMEDY))
    return StoredDenoiser(denoiser.eval(), schedule, config, folder)


def require_format(path: Path, values: Any, wanted: int, remedy: str) -> None:
    """Refuse a folder that another version wrote.

    Raises:
        UserError: it is of another format.
    """
    found = values.get("format") if isinstance(values, dict) else None
    if found != wanted:
        raise UserError(f"{path}: is of format {found}, this version reads format {wanted}; {remedy}")


def save_weights(folder: Path, weights: dict[str, Tensor]) -> None:
    """Write `model.safetensors`."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    save_file(whole, folder / "model.safetensors")


def load_weights(folder: Path, expected: dict[str, Tensor], remedy: str) -> dict[str, Tensor]:
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
