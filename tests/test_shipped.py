"""The model that comes with the package: small, whole, and of today's default."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import yaml

import sunfish
from sunfish.runtime.generator import Sampler
from sunfish.runtime.info import read_info
from sunfish.runtime.settings import Settings
from tests.builders import ROOT

SHIPPED = Path(sunfish.__file__).parent / "shipped"


def test_the_shipped_folder_is_whole_and_small() -> None:
    info = read_info(SHIPPED)
    assert not info.unlisted
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) <= 2_000_000


def test_the_shipped_model_is_the_default() -> None:
    params, config = yaml.safe_load((ROOT / "params.yaml").read_text()), read_info(SHIPPED).config
    assert dataclasses.asdict(config.model) == params["model"]
    assert config.sampler.to_dict() == params["sampler"]


def test_the_shipped_model_writes_and_fills() -> None:
    sampler, settings = Sampler.load(SHIPPED), Settings(seed=0)
    texts = sampler.generate(2, settings=settings)
    assert len({str(text) for text in texts}) == 2 and all(str(text).endswith(".") for text in texts)
    filled = str(sampler.infill("once tom had a red kite . [MASK:3] .", settings=settings)[0])
    assert filled.startswith("once tom had a red kite . ")
