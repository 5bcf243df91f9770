from __future__ import annotations

import json
from typing import Any

import pytest

from sunfish.model.transformer import MLP
from sunfish.preflight import checks
from sunfish.preflight.gate import Gate, open_gate, scale_down
from sunfish.text.shards import Shards
from sunfish.training.train_step import Recipe
from tests.builders import recipe_of


def opened(params: dict, shards: Shards) -> Gate:
    recipe: Recipe = recipe_of(params)
    return open_gate(shards, params["data"], recipe, params["validate"])


@pytest.mark.slow
def test_the_gate_passes_and_fails_where_it_should(params: dict, shards: Shards) -> None:
    gate = opened(params, shards)
    found = checks.run_checks(gate)
    assert [check.name for check in found if not check.passed] == []
    assert not checks._timed("overfit", lambda g: checks.check_overfit(g, "eps_mse", 1e-9), gate).passed
    says = json.dumps(checks.verdict(gate, found))
    assert json.loads(says)["passed"] and "seconds" not in says


def test_a_parameter_without_a_gradient_is_noticed(params: dict, shards: Shards, monkeypatch: Any) -> None:
    monkeypatch.setattr(MLP, "forward", lambda self, x: 0 * self.down(self.up(x)))
    with pytest.raises(checks.Failed, match=r"no gradient reaches transformer.blocks.0.near_mlp.earlier"):
        checks.check_gradients(opened(params, shards))


@pytest.mark.parametrize("bound", [float("nan"), 1e-9])
def test_no_bound_is_passed_by_chance(params: dict, shards: Shards, bound: float) -> None:
    with pytest.raises(checks.Failed, match="cannot learn"):
        checks.check_overfit(opened(params, shards), "ce", bound)


def test_a_large_model_is_scaled_down_and_it_is_said(params: dict) -> None:
    small, says = scale_down(params["model"], 50_000, 10_000)
    assert small.width == 64 and "scaled down from" in says
    assert scale_down(params["model"], 512, 10**9) == (params["model"], "")
