"""Thimble-sized comparators with drawn weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from sunfish.config.schema.diffusion import DiffusionConfig, KnownConfig
from sunfish.config.schema.model import ModelConfig
from sunfish.diffusion.lengths import RowLengths
from sunfish.model.baseline import (
    FORMAT,
    TOKENIZER_FILES,
    Baseline,
    BaselineConfig,
    make_baseline,
)
from sunfish.model.pretrained import write_folder

VOCAB, LENGTH, END = 11, 8, 0
MODEL = ModelConfig(
    name="thimble", num_layers=2, num_heads=2, width=32, emb_dim=16, cond_dim=8, conv_window=2,
    tied_head=True, input_posterior=True, output_prior=False, length_conditioning=True,
)  # fmt: skip
KNOWN = KnownConfig(
    conditioned_fraction=0.75, prefix=1.0, suffix=0.0, span=0.0, scattered=1.0, pure_noise_fraction=0.33
)
DIFFUSION = DiffusionConfig(objective="ce", check_weight=4.0, self_conditioning=0.5, known=KNOWN)


def scrambled(kind: Any, **changes: Any) -> Baseline:
    """A baseline of which every weight says something."""
    baseline = make_baseline(dataclasses.replace(MODEL, **changes), VOCAB, kind, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in baseline.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return baseline.eval()


def stored(folder: Path, baseline: Baseline, kind: Any) -> Path:
    for name in TOKENIZER_FILES:
        (folder / name).write_text("{}")
    config = BaselineConfig(FORMAT, MODEL, VOCAB, RowLengths.count([6, 6], 1), END, True, kind)
    write_folder(folder / "baseline", config, dict(baseline.named_parameters()), folder)
    return folder / "baseline"
