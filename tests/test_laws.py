"""Fitted laws must be those that losses were made by, and trainings as long as their operations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import laws
from sunfish.text.shards import Shards
from sunfish.training.cost import step_operations
from tests.builders import THIMBLE


def test_a_law_is_found_again_with_its_errors() -> None:
    sizes = np.repeat([2e5, 5e5, 1.5e6, 5e6, 2e7], 3)
    tokens = np.tile([1e6, 4e6, 2e7], 5)
    noise = np.exp(0.02 * np.random.default_rng(0).standard_normal(15))
    law = laws.fit(sizes, tokens, (200 * sizes**-0.4 + 900 * tokens**-0.5) * noise)
    found = law.to_dict()
    for name, wanted in {"alpha": 0.4, "beta": 0.5}.items():
        value, error = found[name]
        assert abs(value - wanted) < 3 * error and error < 0.1
    assert law.r_squared > 0.98
    middle, low, high = found["predicted"]["35M"]
    assert low < middle < high
    assert middle == pytest.approx(200 * 35e6**-0.4 + 900 * 700e6**-0.5, rel=0.3)


def test_a_cell_takes_the_operations_that_it_is_given(shards: Shards) -> None:
    params = laws.cell_params("0.2M", 1e12, shards, THIMBLE[:5])
    steps, rows = params["pretrain"].steps, params["pretrain"].batch_rows
    length = params["tokens"] // steps // rows
    each = step_operations(params["model"], params["diffusion"], shards.vocab_size, rows, length)
    assert steps * each == pytest.approx(1e12, rel=0.01)
    assert laws.cell_params("20M", 1e12, shards, THIMBLE[:5]) is None


@pytest.mark.slow
def test_a_cell_is_trained_measured_and_kept(
    shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(laws.SIZES, "0.2M", (1, 32))
    monkeypatch.setattr(laws, "MIN_STEPS", 5)
    params = laws.cell_params("0.2M", 1e9, shards, THIMBLE)
    cell = laws.run_cell(params, shards, tmp_path)
    assert len(cell["loss"]) == 5 and min(cell["loss"].values()) > 0
    monkeypatch.setattr(laws, "pretrain", None)
    assert laws.run_cell(params, shards, tmp_path) == cell  # nothing is trained again
