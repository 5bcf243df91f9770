from __future__ import annotations

import dataclasses
import fcntl
import os
import random
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sunfish.config.compose import check, compose
from sunfish.runtime.generator import Sampler
from sunfish.config.schema.data import DataConfig
from sunfish.sharding.shard import Result, shard
from sunfish.text.shards import Shards
from tests.corpora import digest, files, real_section, run

ROOT = Path(__file__).parent.parent
REAL_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real data beside the project ({REAL_DATA.name}/)")
    return REAL_DATA


@pytest.fixture(scope="session")
def params(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The default configuration, made thimble-sized."""
    path = tmp_path_factory.mktemp("conf") / "params.yaml"
    compose(THIMBLE, path)
    return check(path)


THIMBLE = [
    "data.sources.stories.num_documents=600",
    "data.shard_tokens=8_000",
    "data.tokenizer.vocab_size=512",
    "data.row_length=96",
    "data.held_out_share=0.1",
    "model.width=32",
    "model.num_heads=2",
    "model.emb_dim=16",
    "model.cond_dim=8",
    "pretrain.steps=12",
    "pretrain.batch_rows=8",
    "pretrain.micro_rows=4",
    "pretrain.optim.warmup_steps=2",
    "pretrain.log_every=2",
    "pretrain.sample_every=6",
    "pretrain.checkpoint_every=4",
    "validate.overfit_eps_mse=10",
    "validate.overfit_ce=10",
    "validate.overfit_steps=20",
    "validate.mini_run_steps=30",
    "evaluate.bound_rows=16",
    "evaluate.bound_levels=2",
    "evaluate.num_samples=8",
    "evaluate.num_steps=5",
    "evaluate.frontier_steps=[3]",
    "evaluate.frontier_windows=[2]",
    "evaluate.frontier_temperatures=[0.5]",
    "evaluate.frontier_samples=4",
    "evaluate.infill_rows=8",
    "evaluate.infill_candidates=2",
    "export.sampler_candidates=3",
    "evaluate.speed_runs=1",
    "export.parity_texts=4",
    "export.parity_texts_ddpm=1",
    "export.quality_rows=4",
    "tracking=off",
]


@pytest.fixture(scope="session")
def shards(params: dict, tmp_path_factory: pytest.TempPathFactory) -> Shards:
    folder = tmp_path_factory.mktemp("shards") / "shards"
    make_shards(params, folder)
    return Shards(folder)


@pytest.fixture(scope="session")
def trained(params: dict, shards: Shards, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training's folder: denoiser/, curve.csv and all the rest."""
    from tests.runs import run_all

    folder = tmp_path_factory.mktemp("trained")
    run_all(params, folder, shards)
    return folder


@pytest.fixture(scope="session")
def exported(params: dict, trained: Path, shards: Shards, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported folder, and export.json beside it; one for all workers, since it takes more than a
    minute.
    """
    from sunfish.evaluation.exported import bound_of
    from sunfish.evaluation.context import EvalContext
    from sunfish.export.folder import export_folder

    own = tmp_path_factory.getbasetemp()
    place = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "exported"
    place.mkdir(exist_ok=True)
    with Path(f"{place}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "onnx").is_dir():
            subject = EvalContext.read(
                trained / "denoiser", shards.folder, params["data"], params["evaluate"]
            )
            measure = partial(bound_of, subject, num_rows=params["export"].quality_rows)
            export_folder(
                trained / "denoiser", place / "onnx", place / "export.json", params["export"], measure
            )
    return place / "onnx"


@pytest.fixture(scope="session")
def sampler(exported: Path) -> Sampler:
    return Sampler.load(exported)


def make_shards(params: dict, folder: Path) -> Result:
    """Shard the default corpus here, in this process."""
    result = shard(
        params["data"],
        dataclasses.replace(params["launch"].sharding, workers=1),
        folder,
        folder.parent / "runs",
    )
    shutil.rmtree(result.work.folder)
    return result


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
