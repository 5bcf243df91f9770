from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plan import dry_run, dry_start
from sunfish.config.compose import check, compose
from sunfish.diffusion.conditioning import draw_randomness
from sunfish.errors import UserError
from sunfish.model.attention_mask import AttentionMask
from sunfish.model.transformer import Transformer
from sunfish.text.shards import Shards
from sunfish.training.cost import ACTIVATION_BYTES, GIB, step_operations
from sunfish.training.loss import DiffusionLoss
from sunfish.training.plan import make_plan, show_plan
from sunfish.training.state import run_tensors
from sunfish.training.train_step import train_step
from tests.builders import CE, SMALL, batch, composed, job_of, make_denoiser, start


@pytest.mark.parametrize("check_weight", [0.0, 4.0])
@pytest.mark.parametrize("tied_head", [True, False])
def test_a_step_s_operations_are_those_that_torch_counts(check_weight: float, tied_head: bool) -> None:
    diffusion = dataclasses.replace(CE, check_weight=check_weight, self_conditioning=0.0)
    model = dataclasses.replace(SMALL, tied_head=tied_head)
    loss = DiffusionLoss(make_denoiser(300, tied_head=tied_head), diffusion)
    randomness = draw_randomness(diffusion, 0, 0, 4, 32)
    ids, levels = randomness.known.astype("int64"), randomness.times * 0.0
    with FlopCounterMode(display=False) as counted:
        loss(ids, randomness, levels, levels + 1.0).total.backward()
    wanted = step_operations(model, diffusion, 300, 4, 32)
    assert counted.get_total_flops() == pytest.approx(wanted, rel=0.1)


def test_a_plan_needs_no_shards(params: dict, tmp_path: Path, capsys: Any) -> None:
    show_plan(job_of(params), tmp_path / "none")
    printed = capsys.readouterr().out
    assert "no shards yet; planned with data.tokenizer.vocab_size = 512" in printed
    assert "memory in all" in printed and "nan" not in printed


def test_a_plan_counts_both_passes(params: dict) -> None:
    once = dataclasses.replace(params["diffusion"], self_conditioning=0.0)
    both = params | {
        "model": dataclasses.replace(params["model"], input_posterior=False), "diffusion": once
    }  # fmt: skip
    alone = both | {"diffusion": dataclasses.replace(once, check_weight=0.0)}
    one, two = (make_plan(job_of(each), 512) for each in (alone, both))
    assert two.operations() == 2 * one.operations()
    assert two.memory()["activations"] == 2 * one.memory()["activations"]


def test_the_full_model_s_plan_is_said(tmp_path: Path, capsys: Any) -> None:
    compose(["model=full", "launch.accelerator=cpu", "tracking=off"], tmp_path / "params.yaml")
    show_plan(job_of(check(tmp_path / "params.yaml")), tmp_path)
    printed = capsys.readouterr().out
    assert "planned with data.tokenizer.vocab_size = 50,257" in printed and "memory in all" in printed


def test_numbers_of_gpus_are_planned_side_by_side(params: dict, tmp_path: Path, capsys: Any) -> None:
    show_plan(job_of(params), tmp_path / "none", "H100")
    printed = {line[:22].strip(): line[22:].split() for line in capsys.readouterr().out.splitlines()}
    assert printed["devices"] == ["1", "2", "4", "8"]  # those that divide the batch's eight rows
    assert printed["rows at once"] == ["4", "4", "2", "1"]
    with pytest.raises(UserError, match="--plan H7: its peak is not known; known are B200, H200"):
        show_plan(job_of(params), tmp_path / "none", "H7")


MIDDLE = [
    "model.width=256", "model.num_layers=4", "model.emb_dim=64", "model.tied_head=false",
    "data.row_length=128", "pretrain.micro_rows=8", "launch.precision=bf16-mixed",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")
@pytest.mark.parametrize("processes", [1, 8])
@pytest.mark.parametrize("kept", ["none", "selective"])
def test_a_plan_s_memory_is_what_a_dry_run_holds(processes: int, kept: str, tmp_path: Path) -> None:
    """The dry run takes the trainer's own step, sharded by FSDP2, with tensors that are not there."""
    rows = [f"pretrain.batch_rows={8 * processes}", f"pretrain.activation_checkpointing={kept}"]
    params = composed(tmp_path, *MIDDLE, *rows, *(["launch.strategy=fsdp"] if processes > 1 else []))
    plan = make_plan(job_of(params), 8_192, processes)
    assert plan.most() == pytest.approx(dry_run(params, 8_192, processes), rel=0.1)


def test_averaging_shards_gathers_none(tmp_path: Path) -> None:
    params = composed(tmp_path, *MIDDLE, "pretrain.batch_rows=64", "launch.strategy=fsdp")
    with dry_start(params, 8_192, 8) as (run, live):
        live.forget_peak()
        run.ema.update(0)
        assert live.gib("peak") == live.gib("current")


def test_a_checkpoint_is_as_large_as_planned(params: dict, shards: Shards) -> None:
    run = start(params, shards)
    train_step(run, batch(params, shards))
    held = run_tensors(run.denoiser, run.ema, run.optimizers).values()
    planned = make_plan(job_of(params), shards.vocab_size).checkpoint()
    assert planned * GIB == sum(tensor.numel() * tensor.element_size() for tensor in held)


@pytest.mark.parametrize("kept", ["none", "full"])
def test_the_plan_s_activations_are_those_that_are_kept(kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    width, tokens = 512, 64
    fused = F.scaled_dot_product_attention  # as on GPUs
    monkeypatch.setattr("sunfish.model.transformer.attend", lambda q, k, v, mask: fused(q, k, v))

    def kept_bytes(layers: int) -> int:
        transformer = Transformer(layers, width, 8, 2)
        weights = {p.untyped_storage().data_ptr() for p in transformer.parameters()}
        seen: dict[int, Any] = {}
        for block in transformer.blocks:
            block.activation_checkpointing = kept

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            seen.setdefault(tensor.untyped_storage().data_ptr(), tensor)
            return tensor

        kept_by = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION), torch.autocast("cpu", torch.bfloat16), kept_by:
            transformer(torch.randn(2, tokens // 2, width, requires_grad=True), AttentionMask())
        converted = (
            sum(2 * p.numel() for p in transformer.parameters() if p.ndim == 2) if kept == "none" else 0
        )
        return sum(t.untyped_storage().nbytes() for at, t in seen.items() if at not in weights) - converted

    measured = (kept_bytes(6) - kept_bytes(2)) / 4 / tokens / width
    assert ACTIVATION_BYTES[kept] == pytest.approx(measured, rel=0.05)
