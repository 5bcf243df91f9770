"""One pretraining from shards to a denoiser's folder; an interrupted one is carried on from its run folder."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sunfish.files import require_writable, write_json, write_text
from sunfish.model.denoiser import Denoiser
from sunfish.model.inference import sample_free
from sunfish.model.store import write_denoiser
from sunfish.problems import Problem
from sunfish.sampler import ddpm
from sunfish.schedule import NoiseLaw
from sunfish.sections.data import Section as Data
from sunfish.sections.diffusion import Section as Diffusion
from sunfish.sections.launch import Section as Launch
from sunfish.sections.model import Section as Model
from sunfish.sections.pretrain import Section as Pretrain
from sunfish.sections.tracking import Section as Tracking
from sunfish.text.batches import BatchOrder, Rows
from sunfish.text.shards import Shards
from sunfish.text.tokenizer import Tokenizer
from sunfish.tracking import Tracker, project_root
from sunfish.training.checkpoint import drop_checkpoints
from sunfish.training.log import RunLog
from sunfish.training.loop import Run, resume, start_run, train
from sunfish.training.parallel import make_fabric
from sunfish.training.stopping import Stopped

SAMPLE_STEPS = 20
LAST_SHARE = 0.05  # of the run: the stretch that the final training loss is averaged over


@dataclass(frozen=True)
class Places:
    """Where a pretraining reads and writes."""

    shards: Path
    out: Path
    metrics: Path
    curve: Path
    runs: Path | None


def pretrain(
    data: Data, model: Model, diffusion: Diffusion, pretrain: Pretrain, launch: Launch, tracking: Tracking, places: Places
) -> None:
    """Train and write the averaged weights, the final numbers and the loss curve."""
    for path in (places.out, places.metrics, places.curve):
        require_writable(path)
    shards = open_shards(places.shards, data)
    rows = Rows(shards, "train", data)
    order = BatchOrder(rows.length, pretrain.batch_rows, pretrain.seed)
    name = fingerprint(shards, data, model, diffusion, pretrain)
    run_dir = (places.runs or project_root() / "runs") / name
    run = start_run(make_fabric(launch), model, diffusion, pretrain, shards.vocab_size)
    if resume(run, run_dir):
        print(f"{run_dir}: carrying on from step {run.step:,}")
    tracker = Tracker(tracking, {"fingerprint": name})
    tracker.log_params(flatten({"data": data, "model": model, "diffusion": diffusion, "pretrain": pretrain}))
    log = RunLog(run_dir, run.step, tracker)
    status = "FAILED"
    try:
        train(run, lambda step: rows.read(order.indices(step)), run_dir, log, sampler_of(shards.tokenizer, rows))
        status = "FINISHED"
        write_denoiser(places.out, model, run.ema.average, run.law, rows.lengths(), places.shards, shards.end_id)
        weights = hashlib.sha256((places.out / "model.safetensors").read_bytes()).hexdigest()
        tracker.set_tags({"model_sha256": weights, "shards_sha256": shards.digest()})
        write_json(places.metrics, final_numbers(run, log))
        write_text(places.curve, curve_csv(log.lines()))
        drop_checkpoints(run_dir)
    except Stopped:
        status = "KILLED"
        raise
    finally:
        tracker.close(status)


def open_shards(folder: Path, data: Data) -> Shards:
    """Open the shards and hold their vocabulary against the configuration's."""
    shards = Shards(folder)
    wanted, exact = data.tokenizer.vocab_size, data.tokenizer.pretrained is not None
    if shards.vocab_size > wanted or (exact and shards.vocab_size != wanted):
        raise Problem(
            f"params.yaml: data.tokenizer.vocab_size = {wanted}: does not fit {folder}, whose tokenizer has "
            f"{shards.vocab_size} entries; run the shard stage again"
        )
    return shards


def fingerprint(shards: Shards, data: Data, model: Model, diffusion: Diffusion, pretrain: Pretrain) -> str:
    """Return the name of a run: a hash of its data and all it was told. Another configuration is another run."""
    told = {"shards": shards.digest(), "rows": [data.rows, data.row_length, data.row_multiple]}
    told |= flatten({"model": model, "diffusion": diffusion, "pretrain": pretrain})
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def flatten(sections: dict[str, Any]) -> dict[str, Any]:
    """Return `section.key.key -> value` of dataclasses."""
    flat: dict[str, Any] = {}
    for name, value in sections.items():
        values = dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
        if isinstance(values, dict):
            flat |= {f"{name}.{key}": inner for key, inner in flatten(values).items()}
        else:
            flat[name] = values
    return flat


def sampler_of(tokenizer: Tokenizer, rows: Rows) -> Any:
    """Return a function that lets the model write one text, of the rows' usual length, the same noise each time."""
    length = int(np.median(rows.length))

    def write(denoiser: Denoiser, law: NoiseLaw) -> str:
        ids = sample_free(denoiser, ddpm(law, SAMPLE_STEPS), 1, length, np.random.default_rng(0))
        return tokenizer.decode_row(ids[0].tolist())

    return write


def final_numbers(run: Run, log: RunLog) -> dict[str, Any]:
    """Return what the run came to."""
    lines = log.lines()
    last = [line["loss"] for line in lines if line["step"] > (1 - LAST_SHARE) * run.pretrain.steps]
    denoiser: Denoiser = run.model.module
    return {
        "steps": run.step,
        "parameters": sum(p.numel() for p in denoiser.parameters()),
        "train_loss": float(np.mean(last)),
        "rows_per_second": float(np.median([line["rows_per_second"] for line in lines])),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }


def curve_csv(lines: list[dict[str, Any]]) -> str:
    """Return the logged steps as CSV, for `dvc plots`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["step", "loss", "grad_norm", "lr"], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
