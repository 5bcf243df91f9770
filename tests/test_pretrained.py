"""A denoiser's folder comes back to the bit, or says what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sunfish.diffusion.lengths import RowLengths
from sunfish.diffusion.schedule import NoiseSchedule, uniform
from sunfish.digests import write_digests
from sunfish.errors import UserError
from sunfish.model.denoiser import Denoiser
from sunfish.model.pretrained import FORMAT, FolderConfig, read_denoiser, write_denoiser
from tests.builders import SMALL, make_denoiser


def stored(folder: Path, trained: Path) -> tuple[Denoiser, NoiseSchedule]:
    denoiser, schedule = make_denoiser(jitter=0.1), uniform(-11, 4)
    config = FolderConfig(FORMAT, SMALL, 11, RowLengths.count([8, 12], 3), 10, can_check=True)
    write_denoiser(folder, config, denoiser.state_dict(), schedule, trained / "denoiser")
    return denoiser, schedule


def test_a_stored_denoiser_comes_back_to_the_bit(tmp_path: Path, trained: Path) -> None:
    denoiser, schedule = stored(tmp_path / "denoiser", trained)
    again = read_denoiser(tmp_path / "denoiser")
    ours = denoiser.state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in again.denoiser.state_dict().items())
    assert (again.schedule.logsnr == schedule.logsnr).all() and again.lengths.longest == 12
    assert again.config.can_check and not again.denoiser.training


def edit(folder: Path, name: str, change: dict) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


def test_a_folder_that_does_not_fit_says_so(tmp_path: Path, trained: Path) -> None:
    folder = tmp_path / "denoiser"
    stored(folder, trained)
    edit(folder, "config.json", {"format": FORMAT - 1})
    with pytest.raises(UserError, match=rf"is of format {FORMAT - 1}.*pretrain stage"):
        read_denoiser(folder)
    stored(folder, trained)
    edit(folder, "noise_schedule.json", {"t": [0.0, 1.0], "logsnr": [-1.0, 4.0]})
    with pytest.raises(UserError, match=r"noise_schedule.json.*pretrain stage"):
        read_denoiser(folder)  # its digest is another one
    write_digests(folder)
    with pytest.raises(UserError, match=r"noise_schedule.json: is no noise schedule"):
        read_denoiser(folder)
    stored(folder, trained)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model.safetensors"):
        read_denoiser(folder)


def test_weights_of_another_model_are_refused(tmp_path: Path, trained: Path) -> None:
    folder = tmp_path / "denoiser"
    stored(folder, trained)
    edit(folder, "config.json", {"vocab_size": 12})
    write_digests(folder)
    with pytest.raises(UserError, match="does not hold the configured model"):
        read_denoiser(folder)
