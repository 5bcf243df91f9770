"""The CPU gate: small, hard checks on the real shards with the configuration that will be trained.

Each check returns what it saw, or raises `Failed` with what it means. `check_data` and `overfit` are of use
by themselves."""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric

from sunfish.config.schema.data import DataConfig
from sunfish.config.schema.diffusion import KnownConfig
from sunfish.config.schema.model import ModelConfig
from sunfish.config.schema.sampler import CheckConfig, SamplerConfig
from sunfish.config.schema.validate import ValidateConfig
from sunfish.diffusion.schedules import LinearBeta
from sunfish.model.denoiser import Denoiser, count_parameters
from sunfish.model.pretrained import FORMAT, FolderConfig, read_denoiser, write_denoiser
from sunfish.sampling.loop import Conditioning, SamplerPlan
from sunfish.sampling.solvers import SAMPLERS
from sunfish.sampling.torch_backend import sample_texts
from sunfish.text.batches import RowDataset
from sunfish.text.shards import Shards
from sunfish.training.train_step import Recipe, Run, start_run, train_step

NOTHING_KNOWN = KnownConfig(
    conditioned_fraction=0.0, prefix=1.0, span=0.0, scattered=0.0, pure_noise_fraction=0.0
)
EVERY_KIND_KNOWN = KnownConfig(
    conditioned_fraction=0.5, prefix=1.0, span=1.0, scattered=1.0, pure_noise_fraction=0.0
)
NOISE_LEVELS_PER_ROW = 8  # of the overfitted batch
MAX_LOGITS = (
    8_000_000  # per overfitting step: with a large vocabulary rows are cut shorter, to stay within 90 seconds
)
OVERFIT_RATE = (
    2.0  # times the configured rates: learning two rows by heart wants more than learning a language
)
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


@dataclass
class Gate:
    """What the checks look at."""

    shards: Shards
    rows: RowDataset
    recipe: Recipe
    config: ValidateConfig
    fabric: Fabric
    scaled: str  # "" or how the model was scaled down

    def run(
        self, objective: str, num_rows: int, steps: int, known: KnownConfig | None = None, rate: float = 1.0
    ) -> Run:
        """Return a fresh run of the gate's model on batches of `num_rows`, at `rate` times the configured
        rates.

        `eps_mse` is checked as founded: linear betas, no check. At its lowest noise it weighs errors of x_0
        8,000-fold; only the exact posterior (the output prior) is near enough in 100 steps."""
        recipe, changes = self.recipe, {"objective": objective, "known": known or self.recipe.diffusion.known}
        if objective == "eps_mse":
            changes |= {"check_weight": 0.0, "self_conditioning": 0.0}
            model = dataclasses.replace(recipe.model, output_prior=True)
            recipe = dataclasses.replace(recipe, model=model, schedule=LinearBeta(kind="linear-beta"))
        diffusion = dataclasses.replace(recipe.diffusion, **changes)
        usual = recipe.pretrain.optim
        muon_lr, warmup_steps = usual.muon_lr and rate * usual.muon_lr, min(usual.warmup_steps, steps // 10)
        optim = dataclasses.replace(
            usual, muon_lr=muon_lr, adamw_lr=rate * usual.adamw_lr, warmup_steps=warmup_steps
        )
        pretrain = dataclasses.replace(
            recipe.pretrain, steps=steps, batch_rows=num_rows, micro_rows=num_rows, optim=optim
        )
        recipe = dataclasses.replace(recipe, diffusion=diffusion, pretrain=pretrain)
        return start_run(self.fabric, recipe, self.shards.vocab_size, separator_id=self.rows.between)

    def batch(self, num_rows: int) -> np.ndarray:
        """Return the first training rows."""
        return self.rows.read(np.arange(num_rows) % len(self.rows))


def open_gate(shards: Shards, data: DataConfig, recipe: Recipe, config: ValidateConfig) -> Gate:
    """Open the gate, scaling model and rows down where they are too large for it."""
    affordable = MAX_LOGITS // (config.overfit_rows * NOISE_LEVELS_PER_ROW * shards.vocab_size)
    length = max(8, min(data.row_length, config.max_row_length, affordable))
    rows = RowDataset(shards, "train", data, length)
    small, scaled = scale_down(recipe.model, shards.vocab_size, config.max_parameters)
    if length < data.row_length:
        scaled += f"; rows of {length} instead of {data.row_length}"
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    fabric.launch()
    recipe = dataclasses.replace(recipe, model=small)
    return Gate(shards, rows, recipe, config, fabric, scaled.strip("; "))


def scale_down(model: ModelConfig, vocab_size: int, max_parameters: int) -> tuple[ModelConfig, str]:
    """Return the model, or a slim one of the same make, and what was changed."""
    if count_parameters(model, vocab_size) <= max_parameters:
        return model, ""
    slim = dataclasses.replace(
        model,
        num_layers=2,
        num_heads=4,
        width=64,
        emb_dim=min(model.emb_dim, 64),
        cond_dim=min(model.cond_dim, 32),
    )
    return (
        slim,
        f"model scaled down from {count_parameters(model, vocab_size):,} to {count_parameters(slim, vocab_size):,} parameters",
    )


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
        raise Failed(
            f"{counted:,} parameters instead of {expected:,}: the model is not the one that was configured"
        )
    return f"{counted:,} parameters, as configured", None


def check_data(
    shards: Shards, rows: RowDataset, num_batches: int, batch_rows: int = 8
) -> tuple[str, float | None]:
    """Batches load, ids lie in the vocabulary, and they decode to text that encodes to them again."""
    rng = np.random.default_rng(0)
    for _ in range(num_batches):
        ids = rows.read(rng.integers(len(rows), size=batch_rows))
        if ids.min() < 0 or ids.max() >= shards.vocab_size:
            raise Failed(
                f"ids from {ids.min()} to {ids.max()} with {shards.vocab_size} entries: the shards are of another tokenizer"
            )
    text = shards.tokenizer.decode_row(ids[0].tolist())
    again = shards.tokenizer.decode(shards.tokenizer.encode(text))
    if again != text:
        raise Failed(f"{text[:60]!r} comes back as {again[:60]!r}: the tokenizer loses text")
    return f"{num_batches} batches of {batch_rows}; the last reads {text[:40]!r}...", None


def check_gradients(gate: Gate) -> tuple[str, float | None]:
    """Forward and backward are finite, and every parameter gets a gradient once the zero-initialised ones
    have moved.
    """
    run = gate.run(gate.recipe.diffusion.objective, 8, 10, EVERY_KIND_KNOWN)
    grads: dict[str, float] = {}
    for name, parameter in run.denoiser.named_parameters():
        if parameter.requires_grad:
            grads[name] = 0.0
            parameter.register_hook(
                lambda grad, name=name: grads.__setitem__(name, max(grads[name], float(grad.abs().max())))
            )
    for _ in range(4):
        record = train_step(run, gate.batch(8))
        if not math.isfinite(record.loss + record.grad_norm):
            raise Failed(
                f"the loss is {record.loss}, the gradient norm {record.grad_norm}: try fp32 or lower rates"
            )
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
    losses = overfit(
        gate.run(objective, len(ids), bounds.overfit_steps, NOTHING_KNOWN, OVERFIT_RATE),
        ids,
        bounds.overfit_steps,
    )
    last = float(np.mean(losses[-LAST:]))
    if not last < bound:
        raise Failed(
            f"the last losses are {last:.4f}, not below {bound}: the model cannot learn {bounds.overfit_rows} rows by heart"
        )
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
            name=name, steps=steps, eta=0.0, churn=0.1, temperature=1.0, confidence_threshold=1.0, epsilon_cutoff=0.0,
            check=check if gate.recipe.diffusion.check_weight else None,
        )  # fmt: skip
        plan = SamplerPlan.make(config, run.schedule.current)
        sampled = sample_texts(run.denoiser, plan, Conditioning(ids, known), np.random.default_rng(0)).ids
        if not (sampled[known] == ids[known]).all():
            raise Failed(
                f"{name} changed positions that were given: infilling would not keep the text around a gap"
            )
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
        raise Failed(
            f"the loss went from {first:.3f} to {last:.3f} in {steps} steps: nothing is learned; look at the rates"
        )
    return f"loss from {first:.3f} to {last:.3f} in {steps} steps", last


def check_save_and_load(gate: Gate) -> tuple[str, float | None]:
    """A saved model is read back to the same bits."""
    run = gate.run("ce", 1, 1)
    state = run.denoiser.state_dict()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "denoiser"
        config = FolderConfig(
            FORMAT, gate.recipe.model, gate.shards.vocab_size, gate.rows.lengths(), gate.shards.end_id, True
        )
        write_denoiser(place, config, state, run.schedule.current, gate.shards.folder)
        loaded = read_denoiser(place)
    different = [
        name for name, tensor in loaded.denoiser.state_dict().items() if not torch.equal(tensor, state[name])
    ]
    if different or not np.array_equal(loaded.schedule.logsnr, run.schedule.current.logsnr):
        raise Failed(
            f"{', '.join(different[:3]) or 'the noise schedule'} came back changed: checkpoints could not be trusted"
        )
    return f"{len(state)} tensors and the noise schedule, bit for bit", None


def verdict(gate: Gate, checks: list[Check]) -> dict[str, Any]:
    """Return what the next stages depend on: no timings."""
    lines = [{"check": c.name, "passed": c.passed} for c in checks]
    return {"passed": all(c.passed for c in checks), "scaled": gate.scaled, "checks": lines}


def table(checks: list[Check]) -> str:
    """Return the checks as a table for people."""
    lines = [f"{'ok' if c.passed else 'FAILED':7}{c.name:17}{c.seconds:6.1f} s  {c.says}" for c in checks]
    return "\n".join(lines)
