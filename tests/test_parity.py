"""Torch, the exported step and check, and the samplers in one call come to the same ids on the same noise."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from sunfish.config.schema.sampler import CheckConfig
from sunfish.diffusion.process import add_noise
from sunfish.export.parity import (
    Engine,
    Trial,
    call_error,
    hold_against_torch,
    in_one_call,
    parity_plans,
    relative_error,
    sample_watched,
    step_by_step,
)  # fmt: skip
from sunfish.model.pretrained import StoredDenoiser
from sunfish.sampling.loop import Conditioning, Sampled, SamplerPlan
from sunfish.sampling.onnx_backend import graph_path, open_session
from tests import exports

pytest_plugins = ["tests.exports"]

CHECK = CheckConfig(epsilon=0.7, steps=2, restart_time=0.7, max_rounds=None)
PLAIN = dataclasses.replace(exports.PLAIN, steps=5, temperature=0.7)
CASES = {
    "ddim": {},
    "ddpm": {"name": "ddpm"},
    "heun": {"name": "heun", "steps": 4},
    "churn": {"name": "churn", "churn": 0.2},
    "dpmpp": {"name": "dpmpp-2m"},
    "categorical": {"name": "ddpm-categorical", "epsilon_cutoff": 0.02},
    "kept early": {"name": "ddpm", "confidence_threshold": 0.1},
    "checked": {"check": CHECK},
    "checked, ancestral": {"name": "ddpm-categorical", "check": CHECK, "confidence_threshold": 0.1},
    "checked, few rounds": {"check": dataclasses.replace(CHECK, max_rounds=2)},
}


def plan_of(stored: StoredDenoiser, case: str) -> SamplerPlan:
    return SamplerPlan.make(dataclasses.replace(PLAIN, **CASES[case]), stored.schedule)


def engine_of(graphs: Path, program: str) -> Engine:
    if program != "step by step":
        return in_one_call(graphs, program)
    return step_by_step(cache(lambda name: open_session(graph_path(graphs, name), 1)))


@pytest.mark.parametrize("program", ["step by step", "onnxruntime", "reference"])
@pytest.mark.parametrize("case", CASES)
def test_every_program_samples_as_torch_does(
    drawn: StoredDenoiser, graphs: Path, case: str, program: str
) -> None:
    (row,) = hold_against_torch(
        drawn, {program: engine_of(graphs, program)}, case, plan_of(drawn, case), 3, 1e-4
    )
    assert row["ids"] == 36 and row["different_ids"] == 0 and row["near_ties"] == 0


@pytest.mark.parametrize("program", ["step by step", "onnxruntime"])
@pytest.mark.parametrize("case", ["ddim", "checked", "checked, ancestral"])
def test_given_tokens_and_counts_are_alike(
    drawn: StoredDenoiser, graphs: Path, case: str, program: str
) -> None:
    rng = np.random.default_rng(0)
    conditioning = Conditioning(rng.integers(41, size=(3, 12)), rng.random((3, 12)) < 0.3)
    trial = Trial.draw(plan_of(drawn, case), conditioning, 16, 0)
    ours, _ = sample_watched(drawn, trial, 1e-4)
    theirs = engine_of(graphs, program)(trial)
    for name in ("ids", "calls", "corrected"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
    assert (theirs.ids[conditioning.known] == conditioning.ids[conditioning.known]).all()


def test_a_check_changes_texts_and_takes_calls(drawn: StoredDenoiser, graphs: Path) -> None:
    texts = []
    for case in ("ddim", "checked"):
        trial = Trial.draw(plan_of(drawn, case), Conditioning.nothing(4, 12), 16, 0)
        texts.append(engine_of(graphs, "onnxruntime")(trial))
    plain, checked = texts
    assert (plain.calls == 5).all() and not plain.corrected.any()
    assert (checked.calls >= 6).all() and checked.corrected.sum() > 0
    assert ((checked.calls - 6) % 3 == 0).all()  # each correction is followed by two steps and a check


@pytest.mark.parametrize("level", [-11.0, 0.0, 4.0])
def test_a_call_is_as_exact_as_torch_s_at_every_noise_level(
    drawn: StoredDenoiser, graphs: Path, level: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    x_0 = drawn.denoiser.embed(torch.randint(41, (4, 12), generator=generator))
    logsnr = torch.full((4,), level)
    x = add_noise(x_0, torch.randn(x_0.shape, generator=generator), logsnr)
    inputs = {
        "x_t": 10 * x,  # ten times too large, so that alpha matters
        "logsnr": logsnr,
        "x_0_prev": torch.zeros_like(x),
        "known": torch.zeros(4, 12, dtype=torch.bool),
        "temperature": torch.ones(4),
    }
    session = open_session(graph_path(graphs, "model"), 1)
    logits = session.run(["logits"], {name: value.numpy() for name, value in inputs.items()})[0]
    assert relative_error(drawn.denoiser(*inputs.values()).logits.detach().numpy(), logits) < 5e-6


def test_a_call_over_other_shapes_is_exact(drawn: StoredDenoiser, graphs: Path) -> None:
    assert call_error(drawn, open_session(graph_path(graphs, "model"), 1), np.random.default_rng(0)) < 1e-5


def test_parity_can_fail(drawn: StoredDenoiser) -> None:
    def wrong(trial: Trial) -> Sampled:
        ids = np.full(trial.conditioning.ids.shape, 17)
        return Sampled(ids, np.zeros(len(ids), int), np.zeros(len(ids), int))

    for case in ("ddim", "checked"):
        plan = plan_of(drawn, case)
        (row,) = hold_against_torch(drawn, {"wrong": wrong}, case, plan, 2, 1e-6)
        assert row["different_ids"] > 12
        (row,) = hold_against_torch(drawn, {"wrong": wrong}, case, plan, 2, 1e9)
        assert row["different_ids"] == 0 and row["near_ties"] > 12


def test_what_is_compared(drawn: StoredDenoiser) -> None:
    config = dataclasses.replace(PLAIN, check=CHECK)
    names = [(name, plan.config.steps, num) for name, plan, num in parity_plans(config, drawn.schedule, 8, 2)]
    assert names == [
        ("ddim", 50, 8), ("dpmpp-2m", 10, 8), ("ddpm", 1000, 2), ("configured, without check", 5, 8),
        ("configured", 5, 8),
    ]  # fmt: skip
