"""One pretraining from shards to a denoiser's folder; an interrupted one is carried on from its run
folder.
"""

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

from sunfish.files import project_root, read_json, require_writable, write_json, write_text
from sunfish.model.denoiser import Denoiser, count_parameters
from sunfish.sampling.torch_backend import sample_free
from sunfish.model.pretrained import write_denoiser
from sunfish.errors import UserError
from sunfish.sampling.solvers import make_table
from sunfish.diffusion.schedule import NoiseSchedule
from sunfish.config.schema.data import DataConfig
from sunfish.config.schema.diffusion import Blocks
from sunfish.config.schema.diffusion import DiffusionConfig
from sunfish.config.schema.launch import LaunchConfig
from sunfish.config.schema.model import ModelConfig
from sunfish.config.schema.pretrain import PretrainConfig
from sunfish.config.schema.tracking import TrackingConfig
from sunfish.text.batches import Prefetcher, RowDataset
from sunfish.text.shards import Shards
from sunfish.text.tokenizer import Tokenizer
from sunfish.tracking import Tracker
from sunfish.training.checkpoint import Checkpoints, finish_run
from sunfish.training.cost import Meter, Plan, peak_operations
from sunfish.training.log import RunLog
from sunfish.training.loop import Run, resume, start_run, train
from sunfish.training.parallel import (
    choose_strategy,
    count_devices,
    count_processes,
    find_gpu,
    flushing_denormals,
    make_fabric,
    part_of,
    whole,
)
from sunfish.training.stopping import Stopped

SAMPLE_STEPS = 64
EXPECTED_SHARE = {
    "cuda": 0.4,
    "cpu": 0.45,
}  # of the peak; on GPUs what others report at 1.3 B (0.42), on CPUs what the default run measured
LAST_SHARE = 0.05  # of the run: the stretch that the final training loss is averaged over


@dataclass(frozen=True)
class Places:
    """Where a pretraining reads and writes."""

    shards: Path
    out: Path
    metrics: Path
    curve: Path
    runs: Path | None


@dataclass(frozen=True)
class Job:
    """What a pretraining is told."""

    data: DataConfig
    model: ModelConfig
    diffusion: DiffusionConfig
    pretrain: PretrainConfig
    launch: LaunchConfig
    tracking: TrackingConfig

    def told(self) -> dict[str, Any]:
        """Return all that decides the weights, flat; how far the training goes is `pretrain.steps`."""
        rows = {
            "data.rows": self.data.rows,
            "data.row_length": self.data.row_length,
            "data.row_multiple": self.data.row_multiple,
        }
        return rows | flatten({"model": self.model, "diffusion": self.diffusion, "pretrain": self.pretrain})


@flushing_denormals()
def pretrain(job: Job, places: Places) -> None:
    """Train and write the averaged weights, the final numbers and the loss curve; the first process
    writes.
    """
    shards = open_shards(places.shards, job.data)
    rows = RowDataset(shards, "train", job.data)
    require_divisible(job)
    fabric = make_fabric(job.launch, count_parameters(job.model, shards.vocab_size))
    zero = fabric.is_global_zero
    for path in (places.out, places.metrics, places.curve) if zero else ():
        require_writable(path)
    name = fingerprint(shards, job)
    runs = places.runs or project_root() / "runs"
    compiled = fabric.device.type == "cuda" if job.launch.compile is None else job.launch.compile
    run = start_run(fabric, job.model, job.diffusion, job.pretrain, shards.vocab_size, compiled, rows.between)
    carry_on(run, runs, name, job, shards)
    peak = peak_operations(fabric.device) * fabric.world_size  # before MLflow's thread loads its libraries
    tracker = Tracker(
        dataclasses.replace(job.tracking, enabled=job.tracking.enabled and zero), {"fingerprint": name}
    )
    tracker.log_params(flatten({"data": job.data}) | job.told())
    log = RunLog(runs / name, run.step, tracker, writes=zero)
    meter = Meter(
        job.model,
        shards.vocab_size,
        job.diffusion.self_conditioning,
        job.diffusion.copies,
        fabric.device,
        peak,
    )
    feed = Prefetcher(
        rows, rows.order(job.pretrain.batch_rows, job.pretrain.seed), part_of(fabric, job.pretrain.batch_rows)
    )
    beside = (
        fabric.device.type == "cuda" if job.launch.async_checkpoints is None else job.launch.async_checkpoints
    )
    checkpoints = Checkpoints(fabric, runs / name, job.pretrain.keep_checkpoints, beside)
    status = "FAILED"
    try:
        usual = rows.lengths(job.model.told_length).usual
        train(run, feed, checkpoints, log, sampler_of(shards.tokenizer, usual, job.diffusion.blocks), meter)
        write_results(run, log, job, places, shards, rows, tracker)
        if zero:
            finish_run(runs / name)
        status = "FINISHED"
    except Stopped:
        status = "KILLED"
        raise
    finally:
        tracker.close(status)


def require_divisible(job: Job) -> None:
    """Refuse a batch that cannot be shared out evenly."""
    rows, processes = job.pretrain.batch_rows, count_processes(job.launch)
    if rows % processes:
        raise UserError(
            f"pretrain.batch_rows = {rows}: does not divide among {processes} processes; change one of the two"
        )


def carry_on(run: Run, runs: Path, name: str, job: Job, shards: Shards) -> None:
    """Take over the last checkpoint of this run, or of the finished one that it extends.

    Raises:
        UserError: the run to extend is not there, is longer already, or was told something else.
    """
    extended = job.pretrain.extends
    if resume(run, runs / name):
        where = runs / name
    elif extended is not None:
        where = runs / extended
        require_extendable(where, {"shards": shards.digest(), **job.told()})
        if not resume(run, where, "FINAL"):
            raise UserError(
                f"pretrain.extends = '{extended}': {where} holds no finished run; `ls {runs}` shows those there are"
            )
    else:
        where = None
    if run.fabric.is_global_zero:
        write_json(runs / name / "told.json", {"shards": shards.digest(), **job.told()})
        if where:
            print(f"{where}: carrying on from step {run.step:,}")


def require_extendable(folder: Path, told: dict[str, Any]) -> None:
    """Refuse to extend a run that was told anything but fewer steps."""
    before = read_json(folder / "told.json") if (folder / "told.json").is_file() else told
    for key, value in json.loads(json.dumps(told)).items():
        if key not in ("pretrain.steps", "pretrain.extends") and before.get(key) != value:
            raise UserError(
                f"pretrain.extends: {folder.name} had {key} = {before.get(key)}, not {value}; only pretrain.steps may differ"
            )
    if before["pretrain.steps"] >= told["pretrain.steps"] and before is not told:
        raise UserError(
            f"pretrain.steps = {told['pretrain.steps']}: {folder.name} has {before['pretrain.steps']} already; ask for more"
        )


def write_results(
    run: Run, log: RunLog, job: Job, places: Places, shards: Shards, rows: RowDataset, tracker: Tracker
) -> None:
    """Write the averaged weights, the final numbers and the curve; every process gives its shards, one
    writes.
    """
    weights = {name: whole(tensor).cpu() for name, tensor in run.ema.average.items()}
    if run.fabric.is_global_zero:
        write_denoiser(
            places.out,
            job.model,
            weights,
            run.law,
            rows.lengths(job.model.told_length),
            places.shards,
            shards.end_id,
        )
        digest = hashlib.sha256((places.out / "model.safetensors").read_bytes()).hexdigest()
        tracker.set_tags({"model_sha256": digest, "shards_sha256": shards.digest()})
        write_json(places.metrics, final_numbers(run, log))
        write_text(places.curve, curve_csv(log.lines()))
    run.fabric.barrier()


def plan(job: Job, shards: Shards) -> Plan:
    """Return what a pretraining will take, without training."""
    has_gpu = find_gpu(job.launch)
    devices, nodes = count_devices(job.launch, has_gpu)
    parameters = count_parameters(job.model, shards.vocab_size)
    strategy = choose_strategy(job.launch, devices * nodes, parameters)
    return Plan(
        parameters, devices * nodes, {"fsdp": devices * nodes, "hybrid": devices}.get(strategy, 1), job.pretrain.steps,
        job.pretrain.batch_rows, min(job.pretrain.micro_rows, job.pretrain.batch_rows // (devices * nodes)), job.data.row_length,
        job.model, shards.vocab_size, job.diffusion.self_conditioning, job.diffusion.copies, job.pretrain.activation_checkpointing,
    )  # fmt: skip


def show_plan(job: Job, shards: Path) -> None:
    """Print a plan: at the share of the peak that is asked of this project, on the hardware that is here."""
    device = torch.device("cuda" if find_gpu(job.launch) else "cpu")
    print(
        plan(job, open_shards(shards, job.data)).report(peak_operations(device), EXPECTED_SHARE[device.type])
    )


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
    """Return the name of a run: a hash of its data and all it was told. Another configuration is another
    run.
    """
    told = {"shards": shards.digest(), **job.told()}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def flatten(sections: dict[str, Any]) -> dict[str, Any]:
    """Return `section.key.key -> value` of dataclasses."""
    flat: dict[str, Any] = {}
    for name, value in sections.items():
        values = (
            dataclasses.asdict(value)
            if dataclasses.is_dataclass(value) and not isinstance(value, type)
            else value
        )
        if isinstance(values, dict):
            flat |= {f"{name}.{key}": inner for key, inner in flatten(values).items()}
        else:
            flat[name] = values
    return flat


def sampler_of(tokenizer: Tokenizer, length: int, blocks: Blocks | None) -> Any:
    """Return a function that lets the model write one text in a row of `length` tokens, the same noise each
    time.

    As it is trained: one position after another, or all together.
    """

    def write(denoiser: Denoiser, law: NoiseSchedule) -> str:
        table = make_table("ancestral", law, SAMPLE_STEPS)
        if blocks:
            table = make_table("picard", law, SAMPLE_STEPS, order=blocks.order)
        ids, _ = sample_free(denoiser, table, 1, length, np.random.default_rng(0))
        return tokenizer.decode_row(ids[0].tolist())

    return write


def final_numbers(run: Run, log: RunLog) -> dict[str, Any]:
    """Return what the run came to."""
    lines = log.lines()
    last = [line["loss"] for line in lines if line["step"] > (1 - LAST_SHARE) * run.pretrain.steps]
    return {
        "steps": run.step,
        "parameters": sum(p.numel() for p in run.denoiser.parameters()),
        "train_loss": float(np.mean(last)),
        **{
            key: float(np.median([line[key] for line in lines]))
            for key in ("rows_per_second", "tokens_per_second", "share_of_peak")
        },
        "processes": run.fabric.world_size,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }


def curve_csv(lines: list[dict[str, Any]]) -> str:
    """Return the logged steps as CSV, for `dvc plots`."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, ["step", "loss", "grad_norm", "lr"], extrasaction="ignore", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
