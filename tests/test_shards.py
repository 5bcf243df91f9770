"""Shards are read as they were written, or the file that was altered is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from sunfish import files
from sunfish.digests import write_digests
from sunfish.errors import UserError
from sunfish.text.shards import SMALL_FILES, Shards, token_dtype
from sunfish.text.stories import write_stories
from tests.corpora import make_shards


def test_what_was_written_is_read(shards: Shards, params: dict) -> None:
    ids = [
        list(shard.tokens[a:b])
        for shard in shards.split("train")
        for a, b in zip([0, *shard.ends[:-1]], shard.ends, strict=True)
    ]
    held = [
        list(shard.tokens[a:b])
        for shard in shards.split("heldout")
        for a, b in zip([0, *shard.ends[:-1]], shard.ends, strict=True)
    ]
    texts = [shards.tokenizer.decode_row(row) for row in ids + held]
    assert sorted(texts) == sorted(islice(write_stories(0), 600))
    assert not {tuple(row) for row in ids} & {tuple(row) for row in held}
    assert len(shards.split("train")) > 1


def test_the_same_documents_give_the_same_bytes(shards: Shards, params: dict, tmp_path: Path) -> None:
    make_shards(params, tmp_path / "again")
    for path in sorted(shards.folder.iterdir()):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


@pytest.fixture
def copy(shards: Shards, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards.folder, tmp_path / "shards"))


def test_a_flipped_byte_is_named(copy: Path) -> None:
    path = copy / "train-00001.bin"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"train-00001.bin: was altered"):
        Shards(copy).split("train")


def test_a_truncated_or_missing_file_is_named(copy: Path) -> None:
    path = copy / "train-00000.idx"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"train-00000.idx: has .* bytes instead of"):
        Shards(copy).split("train")
    path.unlink()
    with pytest.raises(UserError, match=r"train-00000.idx: no such file"):
        Shards(copy).split("train")


def test_another_tokenizer_is_noticed(copy: Path) -> None:
    path = copy / "tokenizer.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(UserError, match="another tokenizer"):
        Shards(copy)


def test_an_unwritable_folder_is_said_before_the_work(params: dict, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        make_shards(params, tmp_path / "file" / "shards")
    assert not (tmp_path / "runs").exists()


def with_train(manifest: dict[str, Any], **changes: object) -> dict[str, Any]:
    splits = manifest["splits"]
    return manifest | {"splits": splits | {"train": splits["train"] | changes}}


def altered(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


def test_a_large_split_is_read_once_and_again_when_a_file_has_changed(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr("sunfish.text.shards.CHECKED_BYTES", 10)
    monkeypatch.setattr("sunfish.files.REMEMBERED_BYTES", 10)
    read, digest = [], files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: (read.append(path.name), digest(path))[1])
    Shards(copy).split("train")
    assert "train-00001.bin" in read
    read.clear()
    Shards(copy).split("train")
    assert not [name for name in read if name.startswith("train-")]
    altered(copy / "train-00001.bin")
    with pytest.raises(UserError, match=r"train-00001.bin: was altered"):
        Shards(copy).split("train")
    (tmp_path / "runs" / "digests.json").write_text("[1, null]")  # only time is lost
    with pytest.raises(UserError, match=r"train-00001.bin: was altered"):
        Shards(copy).split("train")


def test_verify_reads_every_file_again(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr("sunfish.text.shards.CHECKED_BYTES", 10)
    monkeypatch.setattr("sunfish.files.REMEMBERED_BYTES", 10)
    Shards(copy).verify()
    path = copy / "train-00001.bin"
    before = path.stat()
    altered(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(UserError, match=r"train-00001.bin: was altered"):
        Shards(copy).verify()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: [], "is not a manifest of shards of this version"),
        (lambda m: None, "is not a manifest of shards of this version"),
        (lambda m: {"format": 7}, "is not a manifest of shards of this version"),
        (lambda m: {"format": 2}, "dtype: this key is missing"),
        (lambda m: m | {"dtype": "<f8"}, "dtype = '<f8': should be one of <u2, <u4"),
        (lambda m: m | {"end_id": -1}, "end_id = -1: must lie below"),
        (lambda m: m | {"splits": {"train": []}}, "splits.train = .*: should be a section"),
        (lambda m: with_train(m, tokens=1), "tokens = 1: is not the sum of its shards"),
        (lambda m: json.loads(json.dumps(m).replace("train-00000", "../train-00000")), "is no shard's"),
    ],
)  # fmt: skip
def test_a_manifest_of_another_shape_is_named_with_its_key(copy: Path, change: Any, says: str) -> None:
    path = copy / "manifest.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(UserError, match=r"manifest.json: is not what digests.json says"):
        Shards(copy)
    write_digests(copy, SMALL_FILES)
    with pytest.raises(UserError, match=rf"manifest.json.*{says}.*run the shard stage again"):
        Shards(copy)


def test_what_a_killed_writer_left_is_swept_by_the_next_one(tmp_path: Path) -> None:
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    code = (
        "import os, pathlib; from sunfish.files import replacing\n"
        f"with replacing(pathlib.Path({str(tmp_path / 'onnx')!r})) as folder: folder.mkdir(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    (tmp_path / f".of-an-earlier-version.{dead.stdout.strip()}.tmp").touch()
    (tmp_path / f".mine.{os.getpid()}.tmp").touch()
    (tmp_path / f".elsewhere.another-machine-{dead.stdout.strip()}.tmp").touch()
    assert len(list(tmp_path.glob(".*.tmp"))) == 4
    files.write_text(tmp_path / "other.txt", "")
    left = {path.name.split(".")[1] for path in tmp_path.glob(".*.tmp")}
    assert left == {"mine", "elsewhere"}


def test_ids_take_two_bytes_where_they_fit() -> None:
    assert token_dtype(65_536).itemsize == 2 and token_dtype(65_537).itemsize == 4
