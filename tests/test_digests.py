from __future__ import annotations

from pathlib import Path

import pytest

from sunfish.digests import NAME, check_digests, write_digests
from sunfish.errors import UserError
from sunfish.files import read_json

FILES = ("weights.bin", "inner/config.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "inner").mkdir()
    (tmp_path / "weights.bin").write_bytes(b"\x00\x01")
    (tmp_path / "inner" / "config.json").write_text("{}")
    write_digests(tmp_path)
    return tmp_path


def test_every_file_has_its_digest_and_passes(folder: Path) -> None:
    assert set(read_json(folder / NAME)) == set(FILES)
    check_digests(folder, FILES, "copy it again")


def test_a_flipped_bit_is_found(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(b"\x00\x00")
    with pytest.raises(UserError, match=r"weights.bin: is not what digests.json says.*copy it again"):
        check_digests(folder, FILES, "copy it again")
    check_digests(folder, ["inner/config.json"], "copy it again")  # the others are as they were


def test_a_missing_file_and_one_without_a_digest_are_said(folder: Path) -> None:
    (folder / "inner" / "config.json").unlink()
    with pytest.raises(UserError, match="config.json: no such file, which digests.json lists; copy it"):
        check_digests(folder, FILES, "copy it again")
    with pytest.raises(UserError, match=r"lists no digest of more.bin"):
        check_digests(folder, ["more.bin"], "copy it again")


@pytest.mark.parametrize("text", ["[]", '{"weights.bin": 1}', "{"])
def test_a_broken_list_of_digests_is_said(folder: Path, text: str) -> None:
    (folder / NAME).write_text(text)
    with pytest.raises(UserError, match=NAME):
        check_digests(folder, FILES, "copy it again")


def test_a_folder_without_digests_is_refused(folder: Path) -> None:
    (folder / NAME).unlink()
    with pytest.raises(UserError, match=f"{NAME}: no such file"):
        check_digests(folder, FILES, "copy it again")
