from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sunfish.config.compose import check, compose
from sunfish.diffusion.conditioning import draw_randomness
from sunfish.model.attention_mask import AttentionMask
from sunfish.model.transformer import Transformer
from sunfish.training.cost import ACTIVATION_BYTES, step_operations
from sunfish.training.loss import DiffusionLoss
from sunfish.training.plan import make_plan, show_plan
from tests.builders import CE, SMALL, job_of, make_denoiser


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
