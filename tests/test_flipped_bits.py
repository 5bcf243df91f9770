"""One bit flipped anywhere in what the project writes is named, never silent, never blamed on a sound file.

`SUNFISH_FLIPS=440` flips so many in all; the usual number is fewer."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sunfish.digests import NAME
from sunfish.errors import UserError
from sunfish.model.pretrained import read_denoiser
from sunfish.runtime.info import read_info
from sunfish.text.shards import Shards
from sunfish.tracking import Tracker
from sunfish.training import loop
from sunfish.training.checkpoint import find_checkpoint
from sunfish.training.log import RunLog
from sunfish.training.train_step import train_step
from tests.builders import OFF, batch, checkpoints_of, start

pytest_plugins = ["tests.exports"]
FLIPS = int(os.environ.get("SUNFISH_FLIPS", "88")) // 4  # of each kind of folder


@contextmanager
def flipped(path: Path, rng: np.random.Generator) -> Iterator[None]:
    """Flip one bit of a file inside the block."""
    sound = path.read_bytes()
    data = bytearray(sound)
    data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    yield
    path.write_bytes(sound)


def flips(folder: Path, read: Callable[[Path], Any], num: int = FLIPS) -> Iterator[tuple[str, str]]:
    """Yield a flipped file's name and what reading the folder says, of bits drawn over all files alike."""
    rng = np.random.default_rng(0)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    for path in rng.choice(np.array(files, object), num):
        with flipped(path, rng):
            try:
                said = str(read(folder) and "")
            except UserError as error:
                said = str(error)
        yield path.relative_to(folder).as_posix(), said
    read(folder)  # as it was


def is_right(name: str, said: str, folder: Path) -> bool:
    """Say whether one line names the flipped file; of a digest that differs, either side may be it."""
    named = re.match(rf"{re.escape(str(folder))}/([^:, ]+)[:, ]", said)
    return named is not None and said.isprintable() and (named[1] == name or (name == NAME and NAME in said))


def read_shards(folder: Path) -> Shards:
    shards = Shards(folder)
    shards.verify()
    return shards


@pytest.mark.parametrize("kind", ["shards", "denoiser", "export"])
def test_a_flipped_bit_is_named(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    found = {"shards": "shards", "denoiser": "denoiser_dir", "export": "folder"}
    made = request.getfixturevalue(found[kind])
    folder = Path(shutil.copytree(getattr(made, "folder", made), tmp_path / kind))
    read = {"shards": read_shards, "denoiser": read_denoiser, "export": read_info}[kind]
    wrong = [(name, said) for name, said in flips(folder, read) if not is_right(name, said, folder)]
    assert wrong == []


def test_a_flipped_bit_in_a_checkpoint_takes_the_one_before(
    params: dict, shards: Shards, tmp_path: Path, capsys: Any
) -> None:
    run = start(params, shards)
    checkpoints = checkpoints_of(run, tmp_path)
    for _ in range(2):
        train_step(run, batch(params, shards))
        loop.save(run, checkpoints)
    checkpoints.close()

    def read(folder: Path) -> None:
        if find_checkpoint(tmp_path) != folder:
            raise UserError(capsys.readouterr().err.strip())

    folder = tmp_path / "step-00000002"
    assert [(n, said) for n, said in flips(folder, read) if not is_right(n, said, folder)] == []


def test_an_altered_log_costs_its_line(params: dict, shards: Shards, tmp_path: Path, capsys: Any) -> None:
    rng, lines = np.random.default_rng(0), [{"step": step, "loss": 2.0} for step in range(40)]
    for _ in range(FLIPS):
        log = RunLog(tmp_path, -1, Tracker(OFF, {}))
        for line in lines:
            log.write(line["step"], {"loss": line["loss"]})
        with flipped(tmp_path / "log.jsonl", rng):
            kept = RunLog(tmp_path, 40, Tracker(OFF, {})).lines()
        assert len(kept) >= len(lines) - 2 and sum(line in lines for line in kept) >= len(lines) - 2
    assert "altered lines are left out" in capsys.readouterr().err
