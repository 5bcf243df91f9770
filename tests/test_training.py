from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel

from sunfish.config import compose
from sunfish.model.denoiser import Denoiser, init_weights
from sunfish.model.transformer import Transformer
from sunfish.problems import Impossible, Problem
from sunfish.schedule import uniform
from sunfish.sections.diffusion import Blocks, Known
from sunfish.sections.tracking import Section as Tracking
from sunfish.stagger import ORDERS
from sunfish.text.batches import Rows
from sunfish.text.shards import Shards
from sunfish.tracking import Tracker
from sunfish.training import checkpoint, gate, loop
from sunfish.training.checkpoint import Checkpoints
from sunfish.training.cost import ACTIVATION_BYTES, Meter
from sunfish.training.draws import draw_known, draw_step
from sunfish.training.log import RunLog, read_lines
from sunfish.training.muon import Muon, orthogonalize
from sunfish.training.optim import lr_share
from sunfish.training.parallel import make_fabric
from sunfish.training.pretraining import Job, Places, fingerprint, pretrain
from sunfish.training.state import run_tensors
from sunfish.training.step import StepLoss
from tests.test_model import SMALL, make

OFF = Tracking(enabled=False, experiment="test", uri=None)
MIXED = Known(row_share=0.5, prefix=1.0, span=1.0, scattered=1.0, blind_share=0.0)


def start(params: dict, shards: Shards, **changes: Any) -> loop.Run:
    section = dataclasses.replace(params["pretrain"], **changes)
    return loop.start_run(make_fabric(params["launch"]), params["model"], params["diffusion"], section, shards.vocab_size)


def batch(params: dict, shards: Shards, num: int = 8) -> np.ndarray:
    ids = Rows(shards, "train", params["data"]).read(np.arange(num))
    return np.pad(ids, ((0, 0), (0, 96 - ids.shape[1])), constant_values=shards.end_id)


def checkpoints_of(run: loop.Run, folder: Path, beside: bool = False) -> Checkpoints:
    return Checkpoints(run.fabric, folder, keep=2, beside=beside)


def places(folder: Path, shards: Shards) -> Places:
    return Places(shards.folder, folder / "denoiser", folder / "metrics.json", folder / "curve.csv", folder / "runs")


def job_of(params: dict, **changes: Any) -> Job:
    names = ("data", "model", "diffusion", "pretrain", "launch")
    section = dataclasses.replace(params["pretrain"], **changes)
    return Job(**{**{name: params[name] for name in names}, "pretrain": section, "tracking": OFF})


def run_all(params: dict, folder: Path, shards: Shards, **changes: Any) -> dict[str, torch.Tensor]:
    pretrain(job_of(params, **changes), places(folder, shards))
    return load_file(folder / "denoiser" / "model.safetensors")


class Killed(Exception):
    pass


@pytest.mark.parametrize("stop", [4, 7, 11])
def test_stopped_and_resumed_is_never_stopped(params: dict, shards: Shards, tmp_path: Path, monkeypatch: Any, stop: int) -> None:
    whole = run_all(params, tmp_path / "whole", shards)
    step = loop.train_step

    def dying(run: loop.Run, *rest: Any) -> loop.Record:
        if run.step == stop:
            raise Killed
        return step(run, *rest)

    monkeypatch.setattr(loop, "train_step", dying)
    with pytest.raises(Killed):
        run_all(params, tmp_path / "parts", shards)
    monkeypatch.setattr(loop, "train_step", step)
    resumed = run_all(params, tmp_path / "parts", shards)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    curves = [(tmp_path / name / "curve.csv").read_text() for name in ("whole", "parts")]
    assert curves[0] == curves[1]
    assert not list((tmp_path / "parts" / "runs").glob("*/LATEST"))  # finished: training again means training anew


@pytest.mark.parametrize("flushed", [False, True])
def test_a_training_flushes_denormals_and_leaves_them_as_they_were(
    params: dict, shards: Shards, tmp_path: Path, monkeypatch: Any, flushed: bool
) -> None:
    step, seen = loop.train_step, set()

    def watched(run: loop.Run, *rest: Any) -> loop.Record:
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves_and_nothing_is_lost(
    params: dict, shards: Shards, tmp_path: Path, monkeypatch: Any, number: signal.Signals
) -> None:
    whole = run_all(params, tmp_path / "whole", shards)
    step = loop.train_step

    def interrupted(run: loop.Run, *rest: Any) -> loop.Record:
        record = step(run, *rest)
        if run.step == 6:
            os.kill(os.getpid(), number)
        return record

    monkeypatch.setattr(loop, "train_step", interrupted)
    before = signal.getsignal(number)
    statuses = []
    close = Tracker.close
    monkeypatch.setattr(Tracker, "close", lambda self, status: (statuses.append(status), close(self, status)))
    with pytest.raises(SystemExit) as left:
        run_all(params, tmp_path / "parts", shards)
    assert statuses == ["KILLED"]  # it did not fail
    assert left.value.code == 75 and signal.getsignal(number) is before
    assert (next((tmp_path / "parts" / "runs").glob("*/LATEST"))).read_text() == "step-00000007"
    monkeypatch.setattr(loop, "train_step", step)
    resumed = run_all(params, tmp_path / "parts", shards)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_micro_batches_add_up_to_the_batch(params: dict, shards: Shards) -> None:
    """The same rows, levels, known positions, noise and self-conditioning, however the batch is cut."""
    ids = batch(params, shards)
    launch = dataclasses.replace(params["launch"], precision="32-true")
    sections = [dataclasses.replace(params["pretrain"], micro_rows=micro) for micro in (8, 2)]
    whole, parts = (
        loop.start_run(make_fabric(launch), params["model"], params["diffusion"], section, shards.vocab_size) for section in sections
    )
    for _ in range(3):
        a, b = loop.train_step(whole, ids), loop.train_step(parts, ids)
        assert a.loss == pytest.approx(b.loss, abs=1e-5) and a.grad_norm == pytest.approx(b.grad_norm, rel=1e-4)


@pytest.mark.parametrize("kept", ["selective", "full"])
def test_activation_checkpointing_changes_memory_not_numbers(params: dict, shards: Shards, kept: str) -> None:
    ids = batch(params, shards)
    plain, again = start(params, shards), start(params, shards, activation_checkpointing=kept)
    assert again.denoiser.transformer.blocks[0].activation_checkpointing == kept
    for _ in range(3):
        assert loop.train_step(plain, ids) == loop.train_step(again, ids)


def test_the_same_seed_trains_the_same_ten_steps(params: dict, shards: Shards) -> None:
    first, again = (
        [loop.train_step(run, batch(params, shards)).loss for _ in range(10)] for run in (start(params, shards), start(params, shards))
    )
    assert first == again
    assert first[0] < math.log(shards.vocab_size)  # a zero head knows only what the noise shows
    assert first[-1] < first[0]


def test_a_batch_is_overfitted_under_the_founding_objective(params: dict, shards: Shards) -> None:
    wide = dataclasses.replace(params["model"], width=64, emb_dim=16, output_prior=True)
    optim = dataclasses.replace(params["pretrain"].optim, warmup_steps=5)
    section = dataclasses.replace(params["pretrain"], steps=100, batch_rows=16, micro_rows=16, optim=optim)
    founding = {"objective": "eps_mse", "law": gate.FOUNDING_LAW, "known": gate.NOTHING_KNOWN, "blocks": None}
    diffusion = dataclasses.replace(params["diffusion"], **founding)
    run = loop.start_run(make_fabric(params["launch"]), wide, diffusion, section, shards.vocab_size)
    losses = gate.overfit(run, np.tile(batch(params, shards, 2), (8, 1)), 100)
    assert np.mean(losses[-10:]) < 0.05 < losses[0]


def test_mixed_precision_multiplies_in_bf16_and_keeps_the_noise_level_exact(params: dict, shards: Shards, monkeypatch: Any) -> None:
    seen = []
    inputs = Denoiser._inputs

    def watch(self: Denoiser, x_t: Any, logsnr: Any, *told: Any) -> Any:
        seen.append((torch.is_autocast_enabled("cpu"), torch.is_grad_enabled(), x_t.dtype, logsnr.dtype))
        return inputs(self, x_t, logsnr, *told)

    monkeypatch.setattr(Denoiser, "_inputs", watch)
    launch = dataclasses.replace(params["launch"], precision="bf16-mixed")
    diffusion = dataclasses.replace(params["diffusion"], self_conditioning=0.5)
    run = loop.start_run(make_fabric(launch), params["model"], diffusion, params["pretrain"], shards.vocab_size)
    assert math.isfinite(loop.train_step(run, batch(params, shards)).loss)
    assert set(seen) == {(True, grad, torch.float32, torch.float32) for grad in (True, False)}  # the first estimate and the loss


def test_known_positions_get_no_loss(params: dict, shards: Shards) -> None:
    everything_but_one = np.ones((8, 96), bool)
    everything_but_one[:, 5] = False
    ids = batch(params, shards)
    prior_free = dataclasses.replace(params["model"], output_prior=False)  # so that the zero head knows nothing
    at_once = dataclasses.replace(params["diffusion"], blocks=None)
    run = loop.start_run(make_fabric(params["launch"]), prior_free, at_once, params["pretrain"], shards.vocab_size)
    draws = draw_step(run.diffusion, 0, 0, 8, 96)._replace(known=everything_but_one)
    levels = run.law.logsnr_at(draws.times)
    total, losses = run.model(ids, draws, levels, run.law.density(levels))
    assert torch.allclose(losses, torch.full((8, 96), math.log(shards.vocab_size)), rtol=0.01)
    assert float(total) == pytest.approx(math.log(shards.vocab_size) / 96, rel=0.01)


def test_elbo_is_the_bound_and_its_sisters_are_squares(params: dict) -> None:
    """Tokens drawn evenly, the denoiser ideal: the mean of `elbo` over all noise levels is their entropy."""
    law, rng, sums = uniform(-14, 8, 50), np.random.default_rng(0), dict.fromkeys(("elbo", "x0_mse", "eps_mse"), 0.0)
    for name in sums:
        section = dataclasses.replace(params["diffusion"], objective=name, self_conditioning=0.0, blocks=None)
        section = dataclasses.replace(section, known=gate.NOTHING_KNOWN)
        loss = StepLoss(make(), section)
        for step in range(20):
            draws = draw_step(section, 0, step, 128, 8)
            levels = law.logsnr_at(draws.times)
            value, seen = loss(rng.integers(11, size=(128, 8)), draws, levels, law.density(levels))
            sums[name] += float(value.detach()) / 20
            assert torch.isfinite(seen).all() and seen.shape == (128, 8)
    assert sums["elbo"] == pytest.approx(math.log(11), rel=0.05)
    assert 0.0 < sums["x0_mse"] < 1.0 and 0.0 < sums["eps_mse"] < 1.0  # embeddings and noise have unit variance


BLOCKS = Blocks(order="forward", size_max=6, one_clock=0.5, blind_share=0.2, told_share=1.0, noisy_share=1.0, next_token=1.0)


@pytest.mark.parametrize("order", ORDERS)
def test_a_block_sees_what_comes_before_it_and_what_is_done_of_it(params: dict, order: str) -> None:
    section = dataclasses.replace(params["diffusion"], blocks=dataclasses.replace(BLOCKS, order=order), known=MIXED)
    draws = draw_step(section, 0, 0, 64, 20)
    assert draws.free.any() and not draws.free.all()
    unknown = ~draws.known
    for place, start, open_, times in zip(draws.place, draws.start, unknown, draws.times, strict=True):
        assert sorted(place[place > 0]) == list(range(1, (place > 0).sum() + 1)) and (place[open_] > 0).all()
        for first in np.unique(start[open_]):
            block = np.sort(place[open_ & (start == first)])
            assert block[0] == first and (np.diff(block) == 1).all() and len(block) <= 6  # in one piece, from where it begins to be open
            clocks = times[open_ & (start == first)][np.argsort(place[open_ & (start == first)])]
            assert (np.diff(clocks) >= 0).all()  # in order
        assert (start[~open_] > place[~open_]).all()  # what is done sees itself
    blind = (draws.times == 1.0)[unknown].mean()
    assert 0.2 < blind < 0.6 and 0.3 < draws.deciding.mean() / unknown.mean() < 0.8
    part = draws.part(slice(16, 32))
    assert np.array_equal(part.times, draws.times[16:32]) and part.place.shape == (16, 20)


def test_next_tokens_are_asked_for_where_they_were_not_seen(params: dict) -> None:
    """A denoiser that knows nothing pays log V for each: of positions whose next one comes later, and of open ones."""
    section = dataclasses.replace(params["diffusion"], blocks=BLOCKS, known=MIXED, self_conditioning=0.0)
    model, rng = dataclasses.replace(SMALL, output_prior=False), np.random.default_rng(0)
    denoiser = Denoiser(model, 11)
    init_weights(denoiser, 0)
    draws = draw_step(section, 0, 0, 32, 10)
    loss, nats = StepLoss(denoiser, section)(rng.integers(11, size=(32, 10)), draws, np.zeros((32, 10)), np.ones((32, 10)))
    asked = (draws.place[:, 1:] > draws.place[:, :-1]).sum() + (~draws.known).sum()
    assert float(loss) == pytest.approx(asked / 320 * math.log(11), rel=1e-5) and nats.shape == (32, 10)


def test_rows_without_a_noisy_copy_are_asked_what_comes_next_alone(params: dict) -> None:
    """The loss of a mixed batch is the noisy rows' own, as if all had been noisy, and the others' next tokens."""
    section = dataclasses.replace(params["diffusion"], blocks=dataclasses.replace(BLOCKS, noisy_share=0.3), known=MIXED)
    denoiser, rng = make(), np.random.default_rng(0)
    with torch.no_grad():
        denoiser.head.weight.normal_(generator=torch.Generator().manual_seed(0))
    ids, levels = rng.integers(11, size=(20, 10)), np.full((20, 10), -2.0)
    draws = draw_step(section, 0, 0, 20, 10)
    estimated = draw_step(dataclasses.replace(section, self_conditioning=0.5), 0, 0, 20, 10).estimated
    assert estimated.sum() == 3 and not estimated[~draws.noisy].any()
    assert draws.noisy.sum() == 6 and draws.noisy[0] and np.diff(np.flatnonzero(draws.noisy)).max() == 4  # spread over all parts
    loss, seen = StepLoss(denoiser, section)(ids, draws, levels, np.ones((20, 10)))

    def of(rows: np.ndarray, next_token: float) -> tuple[torch.Tensor, torch.Tensor]:
        """All of a batch in two copies, of which only some rows' noisy ones count."""
        blocks = dataclasses.replace(BLOCKS, next_token=next_token)
        told = draws._replace(noisy=np.ones(20, bool), known=draws.known | ~rows[:, None])
        return StepLoss(denoiser, dataclasses.replace(section, blocks=blocks))(ids, told, levels, np.ones((20, 10)))

    noisy, nats = of(draws.noisy, 0.0)
    following, _ = of(np.zeros(20, bool), 1.0)
    assert float(loss) == pytest.approx(float(noisy) / 0.3 + float(following), rel=1e-4)
    torch.testing.assert_close(seen[draws.noisy], nats[draws.noisy], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("rows", "alone"), [(1, 0), (2, 0), (3, 2), (4, 2), (8, 6)])
def test_clean_rows_come_in_pairs(params: dict, rows: int, alone: int) -> None:
    section = dataclasses.replace(params["diffusion"], blocks=dataclasses.replace(BLOCKS, noisy_share=0.25), known=MIXED)
    draws = draw_step(section, 0, 0, rows, 10)
    twice, clean = draws.shared_out()
    assert len(clean) == alone and sorted([*twice, *clean]) == list(range(rows)) and not draws.noisy[clean].any()
    loss, _ = StepLoss(make(), section)(np.zeros((rows, 10), np.int64), draws, np.zeros((rows, 10)), np.ones((rows, 10)))
    assert torch.isfinite(loss)


def test_clean_rows_must_be_asked_something() -> None:
    with pytest.raises(Impossible, match="must be above 0 with a noisy_share below 1"):
        dataclasses.replace(BLOCKS, noisy_share=0.5, next_token=0.0)
    with pytest.raises(Impossible, match="something must be denoised"):
        dataclasses.replace(BLOCKS, noisy_share=0.0)


def test_known_masks_are_of_three_kinds_and_never_everything() -> None:
    rng = np.random.default_rng(0)
    assert not draw_known(Known(row_share=0.0, prefix=1, span=0, scattered=0, blind_share=0.0), 50, 20, rng).any()
    prefix = draw_known(Known(row_share=1.0, prefix=1, span=0, scattered=0, blind_share=0.0), 200, 20, rng)
    assert (np.diff(prefix.astype(int), axis=1) <= 0).all() and not prefix.all(axis=1).any()
    span = draw_known(Known(row_share=1.0, prefix=0, span=1, scattered=0, blind_share=0.0), 200, 20, rng)
    assert (np.abs(np.diff(span.astype(int), axis=1)).sum(axis=1) <= 2).all() and not span.all(axis=1).any()
    scattered = draw_known(Known(row_share=1.0, prefix=0, span=0, scattered=1, blind_share=0.0), 500, 20, rng)
    assert not scattered.all(axis=1).any() and 0.4 < scattered.mean() < 0.55


def test_the_rate_warms_up_and_falls_to_its_end(params: dict) -> None:
    optim = dataclasses.replace(params["pretrain"].optim, warmup_steps=10, decay_share=1.0, final_lr_share=0.1)
    shares = [lr_share(step, 100, optim) for step in range(101)]
    assert shares[0] == 0.1 and shares[9] == 1.0 and shares[10] == 1.0
    assert all(a >= b for a, b in zip(shares[10:], shares[11:], strict=False)) and shares[100] == pytest.approx(0.1)
    late = dataclasses.replace(optim, decay_share=0.4)
    assert [lr_share(step, 110, late) for step in (10, 69, 70)] == [1.0] * 3 and lr_share(90, 110, late) == pytest.approx(0.55)


def meter(params: dict, shards: Shards) -> Meter:
    return Meter(params["model"], shards.vocab_size, 0.5, 2, torch.device("cpu"), 1e11)


def test_a_step_that_is_not_finite_is_skipped_and_many_stop_with_advice(params: dict, shards: Shards, tmp_path: Path) -> None:
    run, log = start(params, shards, max_skipped=3, steps=9), RunLog(tmp_path, 0, Tracker(OFF, {}))
    ids, seen = batch(params, shards), []
    run.denoiser.head_bias.register_hook(lambda grad: grad * math.nan if run.step in (2, 5, 6, 7) else grad)  # one alone is got over

    def read(step: int) -> np.ndarray:
        seen.append(run.denoiser.head_bias.detach().clone())
        return ids

    with pytest.raises(Problem, match="3 steps in a row were skipped.*lower"):
        loop.train(run, read, checkpoints_of(run, tmp_path), log, lambda *_: "", meter(params, shards))
    assert [json.loads(line)["step"] for line in log.events_path.read_text().splitlines()] == [3, 6, 7, 8]
    assert torch.equal(seen[2], seen[3]) and not torch.equal(seen[3], seen[4])
    assert torch.equal(seen[5], run.denoiser.head_bias) and torch.isfinite(seen[5]).all()


def test_a_jump_of_the_loss_is_logged_with_its_batch(params: dict, shards: Shards, tmp_path: Path, monkeypatch: Any) -> None:
    losses = iter([*(1.0 + 0.01 * (k % 5) for k in range(loop.SPIKE_OVER)), 9.0, 1.0])

    def step(run: loop.Run, ids: np.ndarray, stop: bool) -> loop.Record:
        run.step += 1
        return loop.Record(next(losses), 1.0, 1.0)

    monkeypatch.setattr(loop, "train_step", step)
    run = start(params, shards, steps=loop.SPIKE_OVER + 2, sample_every=1000, checkpoint_every=1000)
    log = RunLog(tmp_path, 0, Tracker(OFF, {}))
    loop.train(run, lambda step: batch(params, shards), checkpoints_of(run, tmp_path), log, lambda *_: "", meter(params, shards))
    assert [json.loads(line) for line in log.events_path.read_text().splitlines()] == [
        {"step": loop.SPIKE_OVER + 1, "event": "spike", "loss": "9.0", "grad_norm": "1.0"}
    ]


def test_a_finished_run_is_extended_and_only_by_steps(params: dict, shards: Shards, tmp_path: Path) -> None:
    run_all(params, tmp_path, shards)
    name = next((tmp_path / "runs").iterdir()).name
    before = load_file(tmp_path / "denoiser" / "model.safetensors")
    after = run_all(params, tmp_path, shards, steps=16, extends=name)
    assert any(not torch.equal(before[k], after[k]) for k in before)
    lines = [line["step"] for path in (tmp_path / "runs").glob("*/log.jsonl") if name not in str(path) for line in read_lines(path)]
    assert lines == [14, 16]
    with pytest.raises(Problem, match=r"had pretrain.seed = 0, not 1; only pretrain.steps may differ"):
        run_all(params, tmp_path, shards, steps=16, extends=name, seed=1)
    with pytest.raises(Problem, match=r"has 12 already; ask for more"):
        run_all(params, tmp_path, shards, extends=name)
    with pytest.raises(Problem, match="holds no finished run"):
        run_all(params, tmp_path, shards, steps=16, extends="nothing")


@pytest.mark.parametrize("beside", [False, True])
def test_checkpoints_are_whole_and_few(params: dict, shards: Shards, tmp_path: Path, capsys: Any, beside: bool) -> None:
    (tmp_path / ".step-00000009.tmp").mkdir()  # what a kill in the middle of a save leaves
    run = start(params, shards)
    checkpoints = checkpoints_of(run, tmp_path, beside)
    for _ in range(3):
        loop.train_step(run, batch(params, shards))
        loop.save(run, checkpoints)
    checkpoints.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["LATEST", "step-00000002", "step-00000003"]
    other = start(params, shards)
    assert loop.resume(other, tmp_path) and other.step == 3
    next((tmp_path / "step-00000003").glob("*.safetensors")).write_bytes(b"cut")
    before = start(params, shards)
    assert loop.resume(before, tmp_path) and before.step == 2
    assert "step-00000003: " in (said := capsys.readouterr().err) and "is cut off or altered; taking the one before" in said
    next((tmp_path / "step-00000002").glob("*.safetensors")).unlink()
    with pytest.raises(Problem, match="none of its checkpoints can be read"):
        checkpoint.find_checkpoint(tmp_path)


def test_without_a_rate_for_muon_adamw_has_all_parameters_and_a_run_carries_on(params: dict, shards: Shards, tmp_path: Path) -> None:
    section = params["pretrain"]
    alone = params | {"pretrain": dataclasses.replace(section, optim=dataclasses.replace(section.optim, muon_lr=None, weight_decay=0.1))}
    run, other = start(alone, shards), start(alone, shards)
    assert run.optimizers.muon is None
    decays = {group["weight_decay"]: len(group["params"]) for group in run.optimizers.adamw.param_groups}
    assert set(decays) == {0.0, 0.1} and sum(decays.values()) == len(list(run.denoiser.parameters()))
    checkpoints = checkpoints_of(run, tmp_path)
    for _ in range(2):
        loop.train_step(run, batch(params, shards))
    loop.save(run, checkpoints)
    checkpoints.close()
    assert loop.resume(other, tmp_path)
    for each in (run, other):
        loop.train_step(each, batch(params, shards))
    for name, tensor in run_tensors(other.denoiser, other.ema, other.optimizers).items():
        assert torch.equal(tensor, run_tensors(run.denoiser, run.ema, run.optimizers)[name]), name


def test_a_checkpoint_written_beside_the_training_holds_the_step_it_was_taken_at(
    params: dict, shards: Shards, tmp_path: Path, monkeypatch: Any
) -> None:
    trained_on, save = threading.Event(), checkpoint.dcp.save

    def save_late(*arguments: Any, **named: Any) -> None:
        assert trained_on.wait(30)
        save(*arguments, **named)

    run = start(params, shards)
    loop.train_step(run, batch(params, shards))
    then = {name: tensor.clone() for name, tensor in run_tensors(run.denoiser, run.ema, run.optimizers).items()}
    checkpoints = checkpoints_of(run, tmp_path, beside=True)
    monkeypatch.setattr(checkpoint.dcp, "save", save_late)
    loop.save(run, checkpoints)
    loop.train_step(run, batch(params, shards))
    trained_on.set()
    checkpoints.close()
    other = start(params, shards)
    assert loop.resume(other, tmp_path) and other.step == 1
    for name, tensor in run_tensors(other.denoiser, other.ema, other.optimizers).items():
        assert torch.equal(tensor, then[name]), name


@pytest.mark.parametrize("beside", [False, True])
def test_a_full_disk_leaves_the_checkpoint_before(params: dict, shards: Shards, tmp_path: Path, monkeypatch: Any, beside: bool) -> None:
    run = start(params, shards)
    checkpoints = checkpoints_of(run, tmp_path, beside)
    loop.train_step(run, batch(params, shards))
    loop.save(run, checkpoints)
    checkpoints.wait()
    loop.train_step(run, batch(params, shards))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.dcp, "save", full)
    with pytest.raises(Problem, match="cannot be written.*No space left.*the checkpoint before is kept"):
        loop.save(run, checkpoints)
        checkpoints.wait()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["step-00000001"]
    again = start(params, shards)
    assert loop.resume(again, tmp_path) and again.step == 1


def test_another_configuration_is_another_run(params: dict, shards: Shards) -> None:
    names = [fingerprint(shards, job_of(params, seed=seed)) for seed in (0, 0, 1)]
    assert names[0] == names[1] != names[2]


def test_a_log_cut_by_a_kill_is_mended(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 2, "loss": 1}\n{"step": 4, "loss": 1}\n{"step": 6, "lo')
    log = RunLog(tmp_path, 2, Tracker(OFF, {}))
    assert log.lines() == [{"step": 2, "loss": 1}]


def test_tracking_that_does_not_answer_stops_nothing(capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    tracker = Tracker(dataclasses.replace(OFF, enabled=True), {"fingerprint": "x"})
    tracker.log_metrics({"loss": 1.0}, 1)
    tracker.close()
    assert "MLflow does not answer" in capsys.readouterr().err


@pytest.mark.slow
def test_what_mlflow_missed_is_sent_later_and_once(params: dict, shards: Shards, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    from mlflow import MlflowClient

    from sunfish import tracking

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody there from the first step to the last
    job = dataclasses.replace(job_of(params), tracking=dataclasses.replace(OFF, enabled=True))
    pretrain(job, places(tmp_path, shards))
    assert "MLflow does not answer" in capsys.readouterr().err
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    run_dir = next((tmp_path / "runs").iterdir())
    compose([], tmp_path / "params.yaml")
    monkeypatch.setattr("sys.argv", ["tracking", str(run_dir), "--params", str(tmp_path / "params.yaml")])
    for missing in (6, 0):
        tracking.main()
        assert f"{missing} of 6 logged steps were missing" in capsys.readouterr().out
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("sunfish").experiment_id])
    losses = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "loss")}
    assert losses == {line["step"]: line["loss"] for line in read_lines(run_dir / "log.jsonl")}
    assert run.data.params["model.width"] == "32" and run.data.tags["fingerprint"] == run_dir.name


@pytest.mark.slow
def test_mlflow_keeps_one_run_a_model(tmp_path: Path, monkeypatch: Any) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for step in (1, 2):
        tracker = Tracker(dataclasses.replace(OFF, enabled=True), {"model_sha256": "abc"})
        tracker.log_metrics({"loss": 1.0 / step}, step)
        tracker.log_params({"model.width": 128})
        tracker.close()
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("test").experiment_id])
    assert len(runs) == 1 and runs[0].info.status == "FINISHED" and runs[0].data.metrics["loss"] == 0.5


def test_the_gate_passes_and_fails_where_it_should(params: dict, shards: Shards) -> None:
    opened = gate.open_gate(shards, params["data"], params["model"], params["diffusion"], params["pretrain"], params["validate"])
    checks = gate.run_checks(opened)
    assert [c.name for c in checks if not c.passed] == []
    assert not gate._timed("overfit", lambda g: gate.check_overfit(g, "eps_mse", 1e-9), opened).passed
    assert json.dumps(gate.verdict(opened, checks)) == json.dumps(gate.verdict(opened, gate.run_checks(opened)))


def test_the_gate_notices_a_parameter_that_gets_no_gradient(params: dict, shards: Shards, monkeypatch: Any) -> None:
    from sunfish.model.transformer import MLP

    monkeypatch.setattr(MLP, "forward", lambda self, x: 0 * self.down(self.up(x)))
    opened = gate.open_gate(shards, params["data"], params["model"], params["diffusion"], params["pretrain"], params["validate"])
    with pytest.raises(gate.Failed, match=r"no gradient reaches transformer.blocks.0.norm_mlp.scale, .*transformer.blocks.0.mlp"):
        gate.check_gradients(opened)


def test_muon_is_the_library_s_in_batches() -> None:
    """Tall, wide and square matrices, several of a shape: three updates beside torch.optim.Muon's, one matrix at a time."""
    shapes = [(24, 8), (8, 24), (8, 8), (24, 8), (8, 24)]
    generator = torch.Generator().manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    optimizers = Muon(ours, lr=0.1, weight_decay=0.01), torch.optim.Muon(theirs, lr=0.1, weight_decay=0.01)
    for _ in range(3):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=0.01, rtol=0)


def test_orthogonalizing_keeps_the_directions_and_evens_their_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.randn(shape, generator=generator) for shape in [(32, 8), (8, 32), (8, 32), (8, 8)]]
    together = orthogonalize(matrices, torch.float32)
    for matrix, result in zip(matrices, together, strict=True):
        u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
        lengths = u.mT @ result @ vh.mT
        assert (lengths - lengths.diag().diag()).abs().max() < 1e-3
        assert lengths.diag().min() > 0.6 and lengths.diag().max() < 1.3
    monkeypatch.setattr("sunfish.training.muon.AT_ONCE", 1)
    for result, alone in zip(together, orthogonalize(matrices, torch.float32), strict=True):
        torch.testing.assert_close(result, alone, atol=1e-5, rtol=0)


def test_a_vocabulary_that_does_not_fit_is_said(params: dict, shards: Shards, tmp_path: Path) -> None:
    data = dataclasses.replace(params["data"], tokenizer=dataclasses.replace(params["data"].tokenizer, vocab_size=300))
    with pytest.raises(Problem, match="does not fit"):
        pretrain(dataclasses.replace(job_of(params), data=data), places(tmp_path, shards))


@pytest.mark.parametrize("kept", ["none", "full"])
def test_the_plan_s_activations_are_those_that_are_kept(kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    width, tokens = 512, 64
    monkeypatch.setattr("sunfish.model.transformer.attend", F.scaled_dot_product_attention)  # as on GPUs

    def kept_bytes(layers: int) -> int:
        transformer = Transformer(layers, width, 8)
        weights = {p.untyped_storage().data_ptr() for p in transformer.parameters()}
        seen: dict[int, Any] = {}
        for block in transformer.blocks:
            block.activation_checkpointing = kept

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            seen.setdefault(tensor.untyped_storage().data_ptr(), tensor)
            return tensor

        kept_by = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION), torch.autocast("cpu", torch.bfloat16), kept_by:
            transformer(torch.randn(2, tokens // 2, width, requires_grad=True))
        converted = sum(2 * p.numel() for p in transformer.parameters() if p.ndim == 2) if kept == "none" else 0
        return sum(t.untyped_storage().nbytes() for at, t in seen.items() if at not in weights) - converted

    measured = (kept_bytes(6) - kept_bytes(2)) / 4 / tokens / width
    assert ACTIVATION_BYTES[kept] == pytest.approx(measured, rel=0.05)
