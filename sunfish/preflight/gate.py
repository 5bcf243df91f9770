"""What the checks look at: the shards, and fresh runs of the configured model, scaled down if it is large."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning.fabric import Fabric

from sunfish.config.schema.data import DataConfig
from sunfish.config.schema.diffusion import KnownConfig
from sunfish.config.schema.model import ModelConfig
from sunfish.config.schema.validate import ValidateConfig
from sunfish.diffusion.schedules import LinearBeta
from sunfish.model.initial import count_parameters
from sunfish.text.batches import RowDataset
from sunfish.text.shards import Shards
from sunfish.training.train_step import Recipe, Run, start_run

WEIGHTS = {"prefix": 1.0, "suffix": 1.0, "span": 1.0, "scattered": 1.0}
NOTHING_KNOWN = KnownConfig(conditioned_fraction=0.0, pure_noise_fraction=0.0, **WEIGHTS)
EVERY_KIND_KNOWN = dataclasses.replace(NOTHING_KNOWN, conditioned_fraction=0.5)
NOISE_LEVELS_PER_ROW = 8  # of the overfitted batch
MAX_LOGITS = 8_000_000  # per overfitting step, for 90 seconds: with a large vocabulary rows are cut shorter
OVERFIT_RATE = 2.0  # times the configured rates: two rows by heart want more than a language


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
        """Return a fresh run of the gate's model on batches of `num_rows`, at `rate` times the rates.

        `eps_mse` is checked as founded: linear betas, no check. At its lowest noise it weighs errors of x_0
        8,000-fold; only the exact posterior (the output prior) is near enough in 100 steps."""
        recipe = self.recipe
        changes: dict[str, Any] = {"objective": objective, "known": known or self.recipe.diffusion.known}
        if objective == "eps_mse":
            changes |= {"check_weight": 0.0, "self_conditioning": 0.0}
            model = dataclasses.replace(recipe.model, output_prior=True)
            recipe = dataclasses.replace(recipe, model=model, schedule=LinearBeta(kind="linear-beta"))
        diffusion = dataclasses.replace(recipe.diffusion, **changes)
        usual = recipe.pretrain.optim
        muon_lr = usual.muon_lr and rate * usual.muon_lr
        rates: dict[str, Any] = {"muon_lr": muon_lr, "adamw_lr": rate * usual.adamw_lr}
        optim = dataclasses.replace(usual, **rates, warmup_steps=min(usual.warmup_steps, steps // 10))
        sizes: dict[str, Any] = {"steps": steps, "batch_rows": num_rows, "micro_rows": num_rows}
        pretrain = dataclasses.replace(recipe.pretrain, **sizes, optim=optim)
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
    inner: dict[str, Any] = {"emb_dim": min(model.emb_dim, 64), "cond_dim": min(model.cond_dim, 32)}
    slim = dataclasses.replace(model, num_layers=2, num_heads=4, width=64, **inner)
    before, after = count_parameters(model, vocab_size), count_parameters(slim, vocab_size)
    return slim, f"model scaled down from {before:,} to {after:,} parameters"
