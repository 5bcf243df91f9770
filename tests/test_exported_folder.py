"""A folder that was altered, cut off or written by another version is named in one line."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from sunfish.digests import write_digests
from sunfish.errors import UserError
from sunfish.runtime.generator import Sampler
from sunfish.runtime.info import read_info

pytest_plugins = ["tests.exports"]


@pytest.mark.parametrize(
    "name",
    [
        "onnx/step.onnx",
        "onnx/check.onnx",
        "onnx/model.onnx_data",
        "tokenizer.json",
        "noise_schedule.json",
        "manifest.json",
        "config.json",
    ],
)
def test_a_missing_or_altered_file_is_named(folder: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    data = bytearray((copy / name).read_bytes())
    data[data.rindex(b"}") + 1 if name == "config.json" else len(data) // 2] ^= (
        0x2A if name == "config.json" else 1
    )
    (copy / name).write_bytes(data)
    with pytest.raises(UserError, match=re.escape(name)):
        Sampler.load(copy)
    (copy / name).unlink()
    with pytest.raises(UserError, match="config.json" if name == "config.json" else re.escape(name)):
        Sampler.load(copy)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("digests.json", "{}"), ("digests.json", "[]"), ("digests.json", '{"config.json": 3}'),
        ("digests.json", None),
        ("config.json", "[]"), ("config.json", "3"), ("config.json", "{}"), ("config.json", '{"format": 8}'),
        ("config.json", '{"format": 8, "model": [], "vocab_size": 3}'), ("config.json", "[" * 100_000),
    ],
)  # fmt: skip
def test_malformed_files_are_one_line(folder: Path, tmp_path: Path, name: str, content: str | None) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / name).unlink()
    if content is not None:
        (copy / name).write_text(content)
    with pytest.raises(UserError) as raised:
        Sampler.load(copy)
    assert "\n" not in str(raised.value) and str(copy) in str(raised.value)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("config.json", {"vocab_size": 5}), ("config.json", {"end_id": -1}), ("config.json", {"end_id": 566}),
        ("config.json", {"model": {"emb_dim": 6}}), ("config.json", {"model": {"emb_dim": math.inf}}),
        ("config.json", "1" * 5000), ("noise_schedule.json", "null"), ("noise_schedule.json", "1" * 5000),
        ("noise_schedule.json", {"logsnr": [math.nan, 1.0]}), ("noise_schedule.json", {"t": [0]}),
        ("tokenizer.json", "{}"), ("tokenizer.json", "[]"), ("onnx/step.onnx", "no"), ("manifest.json", "3"),
        ("manifest.json", "\ufeff{}"), ("manifest.json", "1" * 5000), ("manifest.json", {"parity": [1]}),
    ],
)  # fmt: skip
def test_a_folder_that_was_made_up_is_one_line(folder: Path, tmp_path: Path, name: str, change: Any) -> None:
    """Its digests are right, its content is not."""
    path = Path(shutil.copytree(folder, tmp_path / "copy")) / name
    if isinstance(change, dict):
        values = json.loads(path.read_text())
        inner = {key: values[key] | value for key, value in change.items() if isinstance(value, dict)}
        change = json.dumps(values | change | inner)
    path.write_text(change)
    write_digests(tmp_path / "copy")
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "copy"))) as raised:
        Sampler.load(tmp_path / "copy")
        read_info(tmp_path / "copy")
    assert "\n" not in str(raised.value)


def test_an_older_folder_is_told_to_export_again(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "config.json").write_text(json.dumps({"model": {}, "sampler": {}}))
    (copy / "manifest.json").write_text(json.dumps({"format": 7}))
    with pytest.raises(
        UserError, match="is of format 7, this version reads format 9; export the model again"
    ):
        Sampler.load(copy)


def test_a_folder_without_eight_bits_says_so(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    digests = json.loads((copy / "digests.json").read_text())
    for name in [name for name in digests if "_quantized" in name]:
        del digests[name]
        (copy / name).unlink()
    (copy / "digests.json").write_text(json.dumps(digests))
    with pytest.raises(UserError, match="holds no int8 graphs"):
        Sampler.load(copy, precision="int8")
    with pytest.raises(UserError, match="--precision = fp8"):
        Sampler.load(copy, precision="fp8")
    (copy / "notes.txt").write_text("mine")
    assert read_info(copy).unlisted == ("notes.txt",)
