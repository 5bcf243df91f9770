"""One pretraining from shards to a denoiser's folder, carried on from its run folder if interrupted."""

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

from sunfish.config.convert import flatten
from sunfish.config.schema.data import DataConfig
from sunfish.config.schema.launch import LaunchConfig
from sunfish.config.schema.tracking import TrackingConfig
from sunfish.diffusion.schedule import NoiseSchedule
from sunfish.errors import UserError
from sunfish.files import project_root, require_writable, sha256, write_json, write_text
from sunfish.model.denoiser import Denoiser
from sunfish.model.initial import count_parameters
from sunfish.model.pretrained import FORMAT, FolderConfig, write_denoiser
from sunfish.text.batches import Prefetcher, RowDataset
from sunfish.text.shards import Shards
from sunfish.tracking import Tracker
from sunfish.training.carry_on import carry_on
from sunfish.training.checkpoint import Checkpoints, finish_run
from sunfish.training.cost import Meter, peak_operations
from sunfish.training.log import RunLog
from sunfish.training.loop import Observers, train
from sunfish.training.optim import learning_bytes
from sunfish.training.parallel import count_processes, flushing_denormals, make_fabric, part_of, whole
from sunfish.training.sample import sample_ids
from sunfish.training.stopping import Stopped
from sunfish.training.train_step import Recipe, Run, start_run

LAST_SHARE = 0.05  # of the run: the stretch that the final training loss is averaged over


@dataclass(frozen=True)
class Places:
    """Where a pretraining reads and writes."""

    shards: Path
    out: Path
    metrics: Path
    curve: Path
    runs: Path | None
    params: Path | None = None  # params.yaml, to be kept with the run


@dataclass(frozen=True)
class Job:
    """The configuration of a pretraining."""

    data: DataConfig
    recipe: Recipe
    launch: LaunchConfig
    tracking: TrackingConfig

    def params(self) -> dict[str, Any]:
        """Return all that decides the weights, flat; how far the training goes is `pretrain.steps`."""
        rows = {f"data.{key}": getattr(self.data, key) for key in ("rows", "row_length", "row_multiple")}
        recipe = flatten(self.recipe)
        recipe.pop("finetune", None)  # of a pretraining, which has none
        return rows | recipe


@flushing_denormals()
def pretrain(job: Job, places: Places) -> None:
    """Train and write the averaged weights, the final numbers and the loss curve."""
    shards, config = open_shards(places.shards, job.data), job.recipe.pretrain
    rows = RowDataset(shards, "train", job.data)
    require_divisible(job)
    fabric = make_fabric(job.launch, count_parameters(job.recipe.model, shards.vocab_size))
    zero = fabric.is_global_zero
    for path in (places.out, places.metrics, places.curve) if zero else ():
        require_writable(path)
    name, runs = fingerprint(shards, job), places.runs or project_root() / "runs"
    on_gpu = fabric.device.type == "cuda"
    compiled = on_gpu if job.launch.compile is None else job.launch.compile
    task_end_id = shards.end_id if rows.answers else None
    run = start_run(fabric, job.recipe, shards.vocab_size, compiled, rows.between, task_end_id)
    carry_on(run, runs, name, {"shards": shards.digest(), **job.params()})
    peak = peak_operations(fabric.device) * fabric.world_size  # before MLflow's thread loads its libraries
    tracker = Tracker(
        dataclasses.replace(job.tracking, enabled=job.tracking.enabled and zero), {"fingerprint": name},
        job.recipe.model.name, runs / name,
    )  # fmt: skip
    tracker.log_params(job.params())
    track_inputs(tracker, job, places, shards)
    log = RunLog(runs / name, run.step, tracker, writes=zero)
    order = rows.order(config.batch_rows, config.seed)
    prefetcher = Prefetcher(rows, order, part_of(fabric, config.batch_rows))
    beside = on_gpu if job.launch.async_checkpoints is None else job.launch.async_checkpoints
    observers = Observers(
        log,
        Meter(job.recipe.model, job.recipe.diffusion, shards.vocab_size, fabric.device, peak),
        Checkpoints(fabric, runs / name, config.keep_checkpoints, beside),
        text_writer(shards, rows.lengths().median),
    )
    status = "FAILED"
    try:
        train(run, prefetcher, observers)
        write_results(run, log, places, shards, rows, tracker)
        if zero:
            finish_run(runs / name)
        status = "FINISHED"
    except Stopped:
        status = "KILLED"
        raise
    finally:
        tracker.close(status)


def track_inputs(tracker: Tracker, job: Job, places: Places, shards: Shards) -> None:
    """Track what a run is made from; paths may change between two starts of a run, so they are tags."""
    tracker.set_tags(flatten(job.data, "data") | {"shards_sha256": shards.digest()})
    tracker.log_dataset("+".join(job.data.sources), shards.digest(), str(places.shards))
    if places.params:
        tracker.log_artifacts(places.params, "pretrain")


def require_divisible(job: Job) -> None:
    """Refuse a batch that cannot be shared out evenly."""
    rows, processes = job.recipe.pretrain.batch_rows, count_processes(job.launch)
    if rows % processes:
        says = f"pretrain.batch_rows = {rows}: does not divide among {processes} processes"
        raise UserError(f"{says}; change one of the two")


def write_results(
    run: Run, log: RunLog, places: Places, shards: Shards, rows: RowDataset, tracker: Tracker
) -> None:
    """Write weights, numbers and curve; every process gives its shards, the first writes."""
    weights = {name: whole(tensor).cpu() for name, tensor in run.ema.average.items()}
    if run.fabric.is_global_zero:
        if finetune := run.recipe.finetune:
            assert rows.answers is not None  # a fine-tuning has tasks
            written = finetune.write(places.out, weights, rows.answers, places.shards)
        else:
            config, written = folder_config(run.recipe, shards, rows), places.out / "model.safetensors"
            write_denoiser(places.out, config, weights, run.schedule.current, places.shards)
        tracker.set_tags({"model_sha256": sha256(written)})
        write_json(places.metrics, final_numbers(run, log))
        write_text(places.curve, curve_csv(log.lines()))
    run.fabric.barrier()


def folder_config(recipe: Recipe, shards: Shards, rows: RowDataset) -> FolderConfig:
    """Return what a denoiser's folder says of itself."""
    about = shards.vocab_size, rows.lengths(), shards.end_id, recipe.diffusion.check_weight > 0
    return FolderConfig(FORMAT, recipe.model, *about, answers=rows.answers)


def open_shards(folder: Path, data: DataConfig) -> Shards:
    """Open the shards and hold their vocabulary against the configuration's."""
    shards = Shards(folder)
    wanted, exact = data.tokenizer.vocab_size, data.tokenizer.pretrained is not None
    if shards.vocab_size > wanted or (exact and shards.vocab_size != wanted):
        raise UserError(
            f"params.yaml: data.tokenizer.vocab_size = {wanted}: does not fit {folder}, whose tokenizer has "
            f"{shards.vocab_size} entries; run the shard stage again"
        )
    return shards


def fingerprint(shards: Shards, job: Job) -> str:
    """Return the name of a run: a hash of its data and its configuration."""
    params = {"shards": shards.digest(), **job.params()}
    return hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()[:16]


def text_writer(shards: Shards, length: int) -> Any:
    """Return a function that samples one text of `length` tokens, from the same noise each time."""

    def write(denoiser: Denoiser, schedule: NoiseSchedule) -> str:
        return shards.tokenizer.decode_row(sample_ids(denoiser, schedule, length))

    return write


def final_numbers(run: Run, log: RunLog) -> dict[str, Any]:
    """Return what the run came to."""
    lines, steps = log.lines(), run.recipe.pretrain.steps
    last = [line for line in lines if line["step"] > (1 - LAST_SHARE) * steps]
    check = numbers_of(last, "check_nats_per_token")
    speeds = ("rows_per_second", "tokens_per_second", "share_of_peak")
    return {
        "steps": run.step,
        "parameters": sum(p.numel() for p in run.denoiser.parameters()),
        "trained_parameters": sum(p.numel() for p in run.denoiser.parameters() if p.requires_grad),
        "learning_bytes": learning_bytes(run.denoiser, run.optimizers),
        "train_loss": float(np.mean(numbers_of(last, "loss"))),
        **({"train_check_nats_per_token": float(np.mean(check))} if check else {}),
        **{key: float(np.median(numbers_of(lines, key))) for key in speeds},
        "processes": run.fabric.world_size,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }


def numbers_of(lines: list[dict[str, Any]], key: str) -> list[float]:
    """Return a key's numbers where lines have it: logs never decide whether a model is written."""
    return [line[key] for line in lines if isinstance(line.get(key), int | float)]


def curve_csv(lines: list[dict[str, Any]]) -> str:
    """Return the logged steps as CSV, for `dvc plots`."""
    text = io.StringIO()
    columns = ["step", "loss", "grad_norm", "lr"]
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
