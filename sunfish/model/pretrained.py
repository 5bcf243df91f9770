"""A trained denoiser on disk: weights, configuration, tokenizer and noise law, all that sampling needs."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sunfish.files import read_json, replacing, write_json
from sunfish.diffusion.lengths import RowLengths
from sunfish.model.denoiser import Denoiser
from sunfish.errors import UserError
from sunfish.diffusion.schedule import NoiseSchedule
from sunfish.config.schema.model import ModelConfig

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class StoredDenoiser:
    """What `read_denoiser` returns: the model in evaluation mode and what belongs to it."""

    denoiser: Denoiser
    law: NoiseSchedule
    lengths: RowLengths
    end_id: int
    folder: Path

    def digest(self) -> str:
        """Return the sha256 of the weights, the model's name in every later record."""
        return hashlib.sha256((self.folder / "model.safetensors").read_bytes()).hexdigest()


def write_denoiser(
    out_dir: Path,
    section: ModelConfig,
    weights: dict[str, Tensor],
    law: NoiseSchedule,
    lengths: RowLengths,
    tokenizer_dir: Path,
    end_id: int,
) -> None:
    """Write the folder whole or not at all."""
    with replacing(out_dir) as folder:
        folder.mkdir()
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()},
            folder / "model.safetensors",
        )
        vocab_size = weights["embedding.weight"].shape[0]
        config = {
            "model": dataclasses.asdict(section),
            "vocab_size": vocab_size,
            "row_lengths": lengths.to_json(),
            "end_id": end_id,
        }
        write_json(folder / "config.json", config)
        write_json(folder / "noise_law.json", law.to_json())
        for name in TOKENIZER_FILES:
            shutil.copyfile(tokenizer_dir / name, folder / name)


def read_denoiser(folder: Path) -> StoredDenoiser:
    """Read what `write_denoiser` wrote.

    Raises:
        UserError: a missing or unreadable file, or one that another version wrote.
    """
    config = read_json(folder / "config.json")
    try:
        law = NoiseSchedule.from_json(read_json(folder / "noise_law.json"))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder / 'noise_law.json'}: is no noise law ({error!r}); run the pretrain stage again"
        ) from error
    try:
        denoiser = Denoiser(ModelConfig(**config["model"]), config["vocab_size"], config["end_id"])
        lengths = RowLengths.from_json(config["row_lengths"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{folder / 'config.json'}: was written by another version ({error}); run the pretrain stage again"
        ) from error
    try:
        denoiser.load_state_dict(load_file(folder / "model.safetensors"))
    except (SafetensorError, FileNotFoundError, RuntimeError) as error:
        raise UserError(
            f"{folder / 'model.safetensors'}: cannot be loaded ({error}); run the pretrain stage again"
        ) from error
    return StoredDenoiser(denoiser.eval(), law, lengths, config["end_id"], folder)
