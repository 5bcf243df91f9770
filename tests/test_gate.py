from __future__ import annotations

import json
from typing import Any

import pytest

from sunfish.text.shards import Shards
from sunfish.training import gate


def test_the_gate_passes_and_fails_where_it_should(params: dict, shards: Shards) -> None:
    opened = gate.open_gate(
        shards, params["data"], params["model"], params["diffusion"], params["pretrain"], params["validate"]
    )
    checks = gate.run_checks(opened)
    assert [c.name for c in checks if not c.passed] == []
    assert not gate._timed("overfit", lambda g: gate.check_overfit(g, "eps_mse", 1e-9), opened).passed
    assert json.dumps(gate.verdict(opened, checks)) == json.dumps(
        gate.verdict(opened, gate.run_checks(opened))
    )


def test_the_gate_notices_a_parameter_that_gets_no_gradient(
    params: dict, shards: Shards, monkeypatch: Any
) -> None:
    from sunfish.model.transformer import MLP

    monkeypatch.setattr(MLP, "forward", lambda self, x: 0 * self.down(self.up(x)))
    opened = gate.open_gate(
        shards, params["data"], params["model"], params["diffusion"], params["pretrain"], params["validate"]
    )
    with pytest.raises(
        gate.Failed,
        match=r"no gradient reaches transformer.blocks.0.norm_mlp.scale, .*transformer.blocks.0.mlp",
    ):
        gate.check_gradients(opened)
