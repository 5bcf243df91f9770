from __future__ import annotations

import dataclasses
import fcntl
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jaxtyping
import numpy as np
import pytest
import torch

from sunfish.config.schema.data import DataConfig
from sunfish.text.shards import Shards
from tests.builders import REAL_DATA, composed, make_shards, run_all, run_stage
from tests.corpora import digest, files, real_section, run

torch.set_warn_always(True)  # a warning that comes once in a process would fail whichever test is first


@pytest.fixture(scope="session", autouse=True)
def graphs_are_traced_unchecked() -> Iterator[None]:
    """Shapes are checked at every call but in an export, where they are symbols and no numbers."""
    export = torch.onnx.export

    def unchecked(*args: Any, **options: Any) -> Any:
        jaxtyping.config.update("jaxtyping_disable", True)
        try:
            return export(*args, **options)
        finally:
            jaxtyping.config.update("jaxtyping_disable", False)

    with mock.patch.object(torch.onnx, "export", unchecked):
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real data beside the project ({REAL_DATA.name}/)")
    return REAL_DATA


@pytest.fixture(scope="session")
def params_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default configuration, made thimble-sized, as params.yaml."""
    folder = tmp_path_factory.mktemp("conf")
    composed(folder)
    return folder / "params.yaml"


@pytest.fixture(scope="session")
def params(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same as dataclasses, section by section."""
    return composed(tmp_path_factory.mktemp("conf"))


@pytest.fixture(scope="session")
def shards(params: dict, tmp_path_factory: pytest.TempPathFactory) -> Shards:
    folder = tmp_path_factory.mktemp("shards") / "shards"
    make_shards(params, folder)
    return Shards(folder)


@pytest.fixture(scope="session")
def trained(params: dict, shards: Shards, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training's folder: denoiser/, curve.csv, metrics.json and runs/."""
    folder = tmp_path_factory.mktemp("trained")
    run_all(params, folder, shards)
    return folder


@pytest.fixture(scope="session")
def exported(
    params_path: Path, trained: Path, shards: Shards, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An exported folder, and export.json beside it; one for all workers, since it takes long."""
    own = tmp_path_factory.getbasetemp()
    place = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "exported"
    place.mkdir(exist_ok=True)
    with Path(f"{place}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "onnx").is_dir():
            run_stage(
                "export", params=params_path, denoiser=trained / "denoiser", shards=shards.folder,
                out=place / "onnx", metrics=place / "export.json",
            )  # fmt: skip
    return place / "onnx"


@pytest.fixture(scope="session")
def sampler(exported: Path) -> Any:
    """The runtime's sampler of the exported folder."""
    from sunfish.runtime.generator import Sampler

    return Sampler.load(exported)


@pytest.fixture(scope="session")
def section(params: dict) -> DataConfig:
    """A small vocabulary of pieces, shards and tasks that are small too."""
    tokenizer = dataclasses.replace(
        params["data"].tokenizer, unit="pieces", vocab_size=400, train_documents=200
    )
    return dataclasses.replace(params["data"], tokenizer=tokenizer, shard_tokens=30_000, held_out_share=0.2)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    rng = random.Random(0)
    words = ["the", "sea", "größer", "三", "a", "was", "blue", "old", "under", "light"]
    return [" ".join(rng.choices(words, k=rng.randint(3, 60))) + f" {i}" for i in range(600)]


@pytest.fixture(scope="session")
def real_digest(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the real FineWeb documents, from files, by one worker."""
    folder = tmp_path_factory.mktemp("real")
    run(real_section(real_data, files(real_data / "fineweb" / "*.parquet")), folder)
    return digest(folder)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
