"""The model that comes with the package: small, whole, and of today's default."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

import sunfish
from sunfish.runtime.cli import main
from sunfish.runtime.generator import Sampler
from sunfish.runtime.info import read_info
from sunfish.runtime.settings import Settings
from tests.builders import ROOT

SHIPPED = Path(sunfish.__file__).parent / "shipped"
PAGES = "\n".join((ROOT / name).read_text() for name in ("README.md", "docs/INFERENCE.md", "Makefile"))
SAID = re.sub(r'^\t@echo "(.*)"$', r"\1", PAGES, flags=re.MULTILINE)
EXAMPLES = re.findall(r"^(?:\S*\s+)?(?:\S*/)?sunfish ((?:generate|infill) [^#\n]*)", SAID, re.MULTILINE)


def test_the_shipped_folder_is_whole_and_small() -> None:
    info = read_info(SHIPPED)
    assert not info.unlisted
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) <= 2_000_000


def test_the_shipped_model_is_the_default() -> None:
    params, config = yaml.safe_load((ROOT / "params.yaml").read_text()), read_info(SHIPPED).config
    assert dataclasses.asdict(config.model) == params["model"]
    assert config.sampler.to_dict() == params["sampler"]


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_pages_examples_work(example: str) -> None:
    words = [word for word in shlex.split(example) if word != "--watch"]  # there is no terminal
    words = [str(SHIPPED) if word == "models/onnx" else word for word in words]
    done = CliRunner().invoke(main, words, env={"SUNFISH_MODEL": str(SHIPPED)})
    assert done.exit_code == 0 and done.stdout.strip() and "the tokenizer has" not in done.stderr, done.output


def test_the_shipped_model_writes_and_fills() -> None:
    sampler, settings = Sampler.load(SHIPPED), Settings(seed=0)
    texts = sampler.generate(2, settings=settings)
    assert len({str(text) for text in texts}) == 2 and all(str(text).endswith(".") for text in texts)
    filled = str(sampler.infill("once tom had a red kite . [MASK:3] .", settings=settings)[0])
    assert filled.startswith("once tom had a red kite . ")
