"""A training's steps: their numbers do not depend on how they are computed, and bad ones are got over."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sunfish.diffusion.schedules import LinearBeta
from sunfish.errors import UserError
from sunfish.model.denoiser import Denoiser
from sunfish.preflight.checks import overfit
from sunfish.preflight.gate import NOTHING_KNOWN
from sunfish.text.shards import Shards
from sunfish.tracking import Tracker
from sunfish.training import loop
from sunfish.training.log import RunLog
from sunfish.training.optim import lr_share
from sunfish.training.run import pretrain
from sunfish.training.train_step import Record, Run, train_step
from tests.builders import OFF, batch, job_of, observers_of, places, run_all, start


@pytest.mark.parametrize("flushed", [False, True])
def test_a_training_flushes_denormals_and_leaves_them_as_they_were(
    params: dict, shards: Shards, tmp_path: Path, monkeypatch: Any, flushed: bool
) -> None:
    step, seen = loop.train_step, set()

    def watched(run: Run, *rest: Any) -> Record:
        seen.add(flushes())
        return step(run, *rest)

    def flushes() -> bool:
        return bool(torch.tensor(1e-40) * 1.0 == 0.0)

    monkeypatch.setattr(loop, "train_step", watched)
    torch.set_flush_denormal(flushed)
    try:
        run_all(params, tmp_path, shards)
        assert seen == {True} and flushes() is flushed
    finally:
        torch.set_flush_denormal(False)


def test_micro_batches_add_up_to_the_batch(params: dict, shards: Shards) -> None:
    """The same rows, levels, known positions, noise and self-conditioning, however the batch is cut."""
    ids = batch(params, shards)
    exact = params | {"launch": dataclasses.replace(params["launch"], precision="32-true")}
    whole, parts = (start(exact, shards, micro_rows=micro) for micro in (8, 2))
    for _ in range(3):
        a, b = train_step(whole, ids), train_step(parts, ids)
        assert a.loss == pytest.approx(b.loss, abs=1e-5)
        assert a.check_nats == pytest.approx(b.check_nats, abs=1e-5)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-4)


@pytest.mark.parametrize("kept", ["selective", "full"])
def test_activation_checkpointing_changes_memory_not_numbers(params: dict, shards: Shards, kept: str) -> None:
    ids = batch(params, shards)
    exact = params | {
        "launch": dataclasses.replace(params["launch"], precision="32-true")
    }  # in bf16 the sums differ
    plain, again = start(exact, shards), start(exact, shards, activation_checkpointing=kept)
    assert again.denoiser.transformer.blocks[0].activation_checkpointing == kept
    for _ in range(3):
        assert train_step(plain, ids) == train_step(again, ids)


def test_the_same_seed_trains_the_same_ten_steps(params: dict, shards: Shards) -> None:
    exact = params | {"launch": dataclasses.replace(params["launch"], precision="32-true")}
    ids = batch(params, shards)
    runs = (start(exact, shards) for _ in range(2))
    first, again = ([train_step(run, ids) for _ in range(10)] for run in runs)
    assert first == again
    assert first[0].check_nats == pytest.approx(math.log(shards.vocab_size), rel=1e-3)  # a zero head


@pytest.mark.parametrize("objective", ["ce", "eps_mse"])
def test_a_batch_is_overfitted(params: dict, shards: Shards, objective: str) -> None:
    changes: dict[str, Any] = {"objective": objective, "known": NOTHING_KNOWN}
    if objective == "eps_mse":
        changes |= {"check_weight": 0.0, "self_conditioning": 0.0}
    wide = params | {
        "model": dataclasses.replace(params["model"], width=64, output_prior=True),
        "diffusion": dataclasses.replace(params["diffusion"], **changes),
        "schedule": LinearBeta(kind="linear-beta") if objective == "eps_mse" else params["schedule"],
    }
    optim = dataclasses.replace(params["pretrain"].optim, warmup_steps=5)
    run = start(wide, shards, steps=100, batch_rows=16, micro_rows=16, optim=optim)
    losses = overfit(run, np.tile(batch(params, shards, 2), (8, 1)), 100)
    assert np.mean(losses[-10:]) < (0.05 if objective == "eps_mse" else 0.5) < losses[0]


def test_the_check_is_learned(params: dict, shards: Shards) -> None:
    run, ids = start(params, shards, steps=100), batch(params, shards)
    checks = [train_step(run, ids).check_nats for _ in range(60)]
    assert checks[-1] < 0.5 * checks[0]


def test_mixed_precision_multiplies_in_bf16_and_keeps_the_noise_level_exact(
    params: dict, shards: Shards, monkeypatch: Any
) -> None:
    seen = []
    hidden = Denoiser._hidden

    def watch(self: Denoiser, x_t: Any, logsnr: Any, *rest: Any) -> Any:
        seen.append((torch.is_autocast_enabled("cpu"), torch.is_grad_enabled(), x_t.dtype, logsnr.dtype))
        return hidden(self, x_t, logsnr, *rest)

    monkeypatch.setattr(Denoiser, "_hidden", watch)
    launch = dataclasses.replace(params["launch"], precision="bf16-mixed")
    run = start(params | {"launch": launch}, shards)
    assert math.isfinite(train_step(run, batch(params, shards)).loss)
    assert set(seen) == {
        (True, grad, torch.float32, torch.float32) for grad in (True, False)
    }  # the first estimate and the loss


def test_the_rate_warms_up_and_falls_to_its_end(params: dict) -> None:
    optim = dataclasses.replace(
        params["pretrain"].optim, warmup_steps=10, decay_share=1.0, final_lr_share=0.1
    )
    shares = [lr_share(step, 100, optim) for step in range(101)]
    assert shares[0] == 0.1 and shares[9] == 1.0 and shares[10] == 1.0
    assert all(a >= b for a, b in zip(shares[10:], shares[11:], strict=False)) and shares[
        100
    ] == pytest.approx(0.1)
    late = dataclasses.replace(optim, decay_share=0.4)
    assert [lr_share(step, 110, late) for step in (10, 69, 70)] == [1.0] * 3 and lr_share(
        90, 110, late
    ) == pytest.approx(0.55)


def test_a_step_that_is_not_finite_is_skipped_and_many_stop_with_advice(
    params: dict, shards: Shards, tmp_path: Path
) -> None:
    run, log = start(params, shards, max_skipped=3, steps=9), RunLog(tmp_path, 0, Tracker(OFF, {}))
    ids, seen = batch(params, shards), []
    run.denoiser.head_bias.register_hook(
        lambda grad: grad * math.nan if run.step in (2, 5, 6, 7) else grad
    )  # one alone is got over

    def read(step: int) -> np.ndarray:
        seen.append(run.denoiser.head_bias.detach().clone())
        return ids

    with pytest.raises(UserError, match="3 steps in a row were skipped.*lower"):
        loop.train(run, read, observers_of(params, run, shards, tmp_path, log))
    assert [json.loads(line)["step"] for line in log.events_path.read_text().splitlines()] == [3, 6, 7, 8]
    assert torch.equal(seen[2], seen[3]) and not torch.equal(seen[3], seen[4])
    assert torch.equal(seen[5], run.denoiser.head_bias) and torch.isfinite(seen[5]).all()


def test_a_jump_of_the_loss_is_logged_with_its_batch(
    params: dict, shards: Shards, tmp_path: Path, monkeypatch: Any
) -> None:
    losses = iter([*(1.0 + 0.01 * (k % 5) for k in range(loop.SPIKE_WINDOW)), 9.0, 1.0])

    def step(run: Run, ids: np.ndarray, stop: bool) -> Record:
        run.step += 1
        return Record(next(losses), 0.0, 1.0, 1.0)

    monkeypatch.setattr(loop, "train_step", step)
    run = start(params, shards, steps=loop.SPIKE_WINDOW + 2, sample_every=1000, checkpoint_every=1000)
    log = RunLog(tmp_path, 0, Tracker(OFF, {}))
    loop.train(run, lambda step: batch(params, shards), observers_of(params, run, shards, tmp_path, log))
    assert [json.loads(line) for line in log.events_path.read_text().splitlines()] == [
        {"step": loop.SPIKE_WINDOW + 1, "event": "spike", "loss": "9.0", "grad_norm": "1.0"}
    ]


def test_a_vocabulary_that_does_not_fit_is_said(params: dict, shards: Shards, tmp_path: Path) -> None:
    data = dataclasses.replace(
        params["data"], tokenizer=dataclasses.replace(params["data"].tokenizer, vocab_size=300)
    )
    with pytest.raises(UserError, match="does not fit"):
        pretrain(dataclasses.replace(job_of(params), data=data), places(tmp_path, shards))
