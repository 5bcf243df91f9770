"""The CPU gate: small, hard checks on the real shards with the configuration that will be trained.

Each check returns what it saw, or raises `Failed` with what it means. `check_data` and `overfit` are of use
by themselves."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sunfish.config.schema.sampler import CheckConfig, SamplerConfig
from sunfish.model.denoiser import Denoiser
from sunfish.model.initial import count_parameters
from sunfish.model.pretrained import FORMAT, FolderConfig, read_denoiser, write_denoiser
from sunfish.preflight.gate import EVERY_KIND_KNOWN, NOISE_LEVELS_PER_ROW, NOTHING_KNOWN, OVERFIT_RATE, Gate
from sunfish.sampling.loop import Conditioning, SamplerPlan
from sunfish.sampling.solvers import SAMPLERS
from sunfish.sampling.torch_backend import sample_texts
from sunfish.text.batches import RowDataset
from sunfish.text.shards import Shards
from sunfish.training.train_step import Run, train_step

LAST = 10  # losses at the end that are averaged


class Failed(Exception):
    """A check that did not hold; the message says what was seen and what it means."""


@dataclass(frozen=True)
class Check:
    """One line of the verdict."""

    name: str
    passed: bool
    says: str
    seconds: float
    value: float | None = None


def run_checks(gate: Gate) -> list[Check]:
    """Run every check in order; one that fails does not hide the next."""
    checks: list[tuple[str, Callable[[Gate], tuple[str, float | None]]]] = [
        ("model", check_model),
        ("data", lambda g: check_data(g.shards, g.rows, g.config.data_batches)),
        ("gradients", check_gradients),
        ("overfit eps_mse", lambda g: check_overfit(g, "eps_mse", g.config.overfit_eps_mse)),
        ("overfit ce", lambda g: check_overfit(g, "ce", g.config.overfit_ce)),
        ("sampling", check_sampling),
        ("mini run", check_mini_run),
        ("save and load", check_save_and_load),
    ]
    return [_timed(name, check, gate) for name, check in checks]


def _timed(name: str, check: Callable[[Gate], tuple[str, float | None]], gate: Gate) -> Check:
    started = time.monotonic()
    try:
        says, value = check(gate)
        passed = True
    except Failed as failure:
        says, value, passed = str(failure), None, False
    return Check(name, passed, says, time.monotonic() - started, value)


def check_model(gate: Gate) -> tuple[str, float | None]:
    """The denoiser has the parameters its configuration implies."""
    denoiser: Denoiser = gate.run("ce", 1, 1).denoiser
    counted = sum(p.numel() for p in denoiser.parameters())
    expected = count_parameters(gate.recipe.model, gate.shards.vocab_size)
    if counted != expected:
        says = f"{counted:,} parameters instead of {expected:,}"
        raise Failed(f"{says}: the model is not the one that was configured")
    return f"{counted:,} parameters, as configured", None


def check_data(
    shards: Shards, rows: RowDataset, num_batches: int, batch_rows: int = 8
) -> tuple[str, float | None]:
    """Batches load, ids lie in the vocabulary, and they decode to text that encodes to them again."""
    rng = np.random.default_rng(0)
    for _ in range(num_batches):
        ids = rows.read(rng.integers(len(rows), size=batch_rows))
        if ids.min() < 0 or ids.max() >= shards.vocab_size:
            says = f"ids from {ids.min()} to {ids.max()} with {shards.vocab_size} entries"
            raise Failed(f"{says}: the shards are of another tokenizer")
    text = shards.tokenizer.decode_row(ids[0].tolist())
    again = shards.tokenizer.decode(shards.tokenizer.encode(text))
    if again != text:
        raise Failed(f"{text[:60]!r} comes back as {again[:60]!r}: the tokenizer loses text")
    return f"{num_batches} batches of {batch_rows}; the last reads {text[:40]!r}...", None


def check_gradients(gate: Gate) -> tuple[str, float | None]:
    """Forward and backward are finite, and a gradient reaches every parameter within a few steps."""
    run = gate.run(gate.recipe.diffusion.objective, 8, 10, EVERY_KIND_KNOWN)
    grads: dict[str, float] = {}

    def see(name: str, grad: torch.Tensor) -> None:
        grads[name] = max(grads[name], float(grad.abs().max()))

    for name, parameter in run.denoiser.named_parameters():
        if parameter.requires_grad:
            grads[name] = 0.0
            parameter.register_hook(partial(see, name))
    for _ in range(4):
        record = train_step(run, gate.batch(8))
        if not math.isfinite(record.loss + record.grad_norm):
            says = f"the loss is {record.loss}, the gradient norm {record.grad_norm}"
            raise Failed(f"{says}: try fp32 or lower rates")
    dead = [name for name, largest in grads.items() if largest == 0.0]
    if dead:
        raise Failed(f"no gradient reaches {', '.join(dead[:3])}: part of the model would never learn")
    return f"finite; a gradient reaches all {len(grads)} parameter tensors", None


def overfit(run: Run, ids: np.ndarray, steps: int) -> list[float]:
    """Train on one batch, again and again, and return its losses."""
    return [train_step(run, ids).loss for _ in range(steps)]


def check_overfit(gate: Gate, objective: str, bound: float) -> tuple[str, float | None]:
    """A single batch is learnt by heart: the critical check; if it fails, the implementation is broken."""
    bounds = gate.config
    ids = np.tile(gate.batch(bounds.overfit_rows), (NOISE_LEVELS_PER_ROW, 1))
    run = gate.run(objective, len(ids), bounds.overfit_steps, NOTHING_KNOWN, OVERFIT_RATE)
    losses = overfit(run, ids, bounds.overfit_steps)
    last = float(np.mean(losses[-LAST:]))
    if not last < bound:
        says = f"the last losses are {last:.4f}, not below {bound}"
        raise Failed(f"{says}: the model cannot learn {bounds.overfit_rows} rows by heart")
    return f"from {losses[0]:.3f} to {last:.4f} in {len(losses)} steps (below {bound})", last


def check_sampling(gate: Gate) -> tuple[str, float | None]:
    """Every sampler runs through, stays finite, and leaves known positions as they are."""
    run = gate.run("ce", 1, 1)
    ids = gate.batch(2)
    known = np.zeros(ids.shape, bool)
    known[:, ::3] = True
    steps = gate.config.sample_steps
    check = CheckConfig(epsilon=0.05, steps=2, restart_time=0.8, max_rounds=3)
    for name in SAMPLERS:
        config = SamplerConfig(
            name=name, steps=steps, eta=0.0, churn=0.1, temperature=1.0, confidence_threshold=1.0,
            epsilon_cutoff=0.0, check=check if gate.recipe.diffusion.check_weight else None,
        )  # fmt: skip
        plan = SamplerPlan.make(config, run.schedule.current)
        sampled = sample_texts(run.denoiser, plan, Conditioning(ids, known), np.random.default_rng(0)).ids
        if not (sampled[known] == ids[known]).all():
            says = f"{name} changed positions that were given"
            raise Failed(f"{says}: infilling would not keep the text around a gap")
    return f"{', '.join(SAMPLERS)}: {steps} steps each, given positions kept", None


def check_mini_run(gate: Gate) -> tuple[str, float | None]:
    """A short training on different batches lowers the loss."""
    steps, num_rows = gate.config.mini_run_steps, gate.config.mini_run_rows
    run = gate.run(gate.recipe.diffusion.objective, num_rows, steps)
    losses = []
    for step in range(steps):
        rows = (np.arange(num_rows) + step * num_rows) % len(gate.rows)
        losses.append(train_step(run, gate.rows.read(rows)).loss)
    first, last = float(np.mean(losses[:LAST])), float(np.mean(losses[-LAST:]))
    if not last < first:
        says = f"the loss went from {first:.3f} to {last:.3f} in {steps} steps"
        raise Failed(f"{says}: nothing is learned; look at the rates")
    return f"loss from {first:.3f} to {last:.3f} in {steps} steps", last


def check_save_and_load(gate: Gate) -> tuple[str, float | None]:
    """A saved model is read back to the same bits."""
    run = gate.run("ce", 1, 1)
    state = run.denoiser.state_dict()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "denoiser"
        data = gate.shards.vocab_size, gate.rows.lengths(), gate.shards.end_id
        config = FolderConfig(FORMAT, gate.recipe.model, *data, can_check=True)
        write_denoiser(place, config, state, run.schedule.current, gate.shards.folder)
        loaded = read_denoiser(place)
    again = loaded.denoiser.state_dict()
    different = [name for name in again if not torch.equal(again[name], state[name])]
    if different or not np.array_equal(loaded.schedule.logsnr, run.schedule.current.logsnr):
        changed = ", ".join(different[:3]) or "the noise schedule"
        raise Failed(f"{changed} came back changed: checkpoints could not be trusted")
    return f"{len(state)} tensors and the noise schedule, bit for bit", None


def verdict(gate: Gate, checks: list[Check]) -> dict[str, Any]:
    """Return what the next stages depend on: no timings."""
    lines = [{"check": c.name, "passed": c.passed} for c in checks]
    return {"passed": all(c.passed for c in checks), "scaled": gate.scaled, "checks": lines}


def table(checks: list[Check]) -> str:
    """Return the checks as a table for people."""
    lines = [f"{'ok' if c.passed else 'FAILED':7}{c.name:17}{c.seconds:6.1f} s  {c.says}" for c in checks]
    return "\n".join(lines)
