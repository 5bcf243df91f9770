"""Sudoku: every grid is as probable as any other, each puzzle has one solution, and solving is counted."""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from benchmarks.puzzles import behind, behind_prompt, compare, prompted
from benchmarks.results_page import puzzle_rows
from pipelines.baselines.train import train
from sunfish.evaluation.context import EvalContext
from sunfish.evaluation.evaluate import measure_all
from sunfish.evaluation.headline import headline_numbers
from sunfish.evaluation.solving import cut_puzzles, share_solved
from sunfish.model.baseline import read_baseline
from sunfish.sampling.loop import Conditioning
from sunfish.text.puzzles import (
    all_grids,
    has_one_solution,
    is_solved,
    random_grid,
    random_puzzle,
    rising,
    solutions,
    write_puzzles,
)
from sunfish.text.shards import Shards
from tests.builders import THIMBLE, composed, make_shards, run_all

HARD = "1....7.9..3..2...8..96..5....53..9...1..8...26....4...3......1..4......7..7...3.."  # "AI Escargot"
ITS_SOLUTION = "162857493534129678789643521475312986913586742628794135356478219241935867897261354"
SMALL = [each for each in THIMBLE if not each.startswith("data.")]
SMALL += ["experiment=puzzles", "data.sources.puzzles.size=4", "data.sources.puzzles.num_documents=600"]
SMALL += ["data.row_length=17", "data.held_out_share=0.1", "sampler.check=null", "model.num_layers=2"]
SMALL = [each for each in SMALL if not each.startswith("sampler.check.")]


def test_all_grids_are_found() -> None:
    """288 and 28,200,960 grids, of which every first row has as many. Source: OEIS A107739 and Pettersen."""
    assert 24 * len(all_grids(4)) == 288 and 720 * len(all_grids(6)) == 28_200_960
    assert all(is_solved("".join(map(str, grid)), 6) for grid in all_grids(6)[::1000])


def test_a_hard_puzzle_has_its_known_solution_and_no_other() -> None:
    cells = [0 if digit == "." else int(digit) for digit in HARD]
    assert ["".join(map(str, found)) for found in solutions(cells, rising(9))] == [ITS_SOLUTION]


def test_every_grid_is_as_probable_as_any_other() -> None:
    counts = Counter(random_grid(4, rng).tobytes() for rng in np.random.default_rng(0).spawn(28_800))
    chi_squared = sum((count - 100) ** 2 / 100 for count in counts.values())
    assert len(counts) == 288 and chi_squared < 287 + 4 * (2 * 287) ** 0.5


@pytest.mark.parametrize("size", [4, 6, 9])
def test_a_puzzle_has_one_solution_and_no_given_cell_too_many(size: int) -> None:
    rng = np.random.default_rng(0)
    grid = random_grid(size, rng)
    given = random_puzzle(grid, rng)
    assert is_solved("".join(map(str, grid)), size) and has_one_solution(grid * given)
    assert tuple(grid) == next(solutions((grid * given).tolist(), rising(size)))
    for cell in np.flatnonzero(given):
        fewer = given & (np.arange(len(grid)) != cell)
        assert not has_one_solution(grid * fewer)


@pytest.mark.parametrize("prompt", ["random", "unique"])
def test_a_prompt_is_its_solution_with_open_cells(prompt: Any) -> None:
    for text in islice(write_puzzles(3, 5, 4, prompt), 8):
        puzzle, solution = text[:16], text[16:]
        assert is_solved(solution, 4) and all(p in (".", s) for p, s in zip(puzzle, solution, strict=True))
        if prompt == "unique":
            assert has_one_solution(np.array([0 if digit == "." else int(digit) for digit in puzzle]))


def test_what_is_no_grid_is_not_solved() -> None:
    wrong = ITS_SOLUTION.translate(str.maketrans("12", "21", ""))
    swapped = ITS_SOLUTION[1] + ITS_SOLUTION[0] + ITS_SOLUTION[2:]
    assert is_solved(ITS_SOLUTION, 9) and is_solved(wrong, 9)
    for text in ("", swapped, ITS_SOLUTION[:-1], ITS_SOLUTION + "1", ITS_SOLUTION.replace("1", "0")):
        assert not is_solved(text, 9)


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with mock.patch("tests.builders.THIMBLE", SMALL):
        return composed(tmp_path_factory.mktemp("conf"))


@pytest.fixture(scope="module")
def folder(params: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of grids, and a denoiser of them."""
    folder = tmp_path_factory.mktemp("puzzles")
    make_shards(params, folder / "shards")
    run_all(params, folder, Shards(folder / "shards"))
    return folder


@pytest.fixture(scope="module")
def context(params: dict[str, Any], folder: Path) -> EvalContext:
    sections = (params[name] for name in ("data", "evaluate", "sampler"))
    return EvalContext.read(folder / "denoiser", folder / "shards", *sections)


def test_held_out_puzzles_are_solved_by_their_own_cells_alone(context: EvalContext) -> None:
    puzzles = cut_puzzles(context)
    assert sum(len(part.ids) for part in puzzles) == context.config.infill_rows
    for part in puzzles:
        assert part.known[:, -1].all() and not part.known.all(axis=1).any()
    found = [part.ids.copy() for part in puzzles]
    assert share_solved(puzzles, found) == 1.0
    found[0][0, 3] += 1
    assert share_solved(puzzles, found) == 1.0 - 1 / context.config.infill_rows


@pytest.mark.slow
def test_an_evaluation_of_grids_counts_solved_puzzles(context: EvalContext) -> None:
    with mock.patch("sunfish.evaluation.samplers.FOUNDING", (("ddim", 4),)):
        results = measure_all(context)[1]
    assert results["real_text"]["grids_valid"] == 1.0 and 0.0 <= results["headline"]["grids_valid"] <= 1.0
    assert set(results["solving"]) == {
        "configured", "ddpm-50", "ddim-50", "ddpm-categorical-50", "ddpm-50-kept-0.9", "ddpm-50-kept-0.99",
    }  # fmt: skip
    assert all(row["given_kept"] == 1.0 for row in results["solving"].values())
    assert headline_numbers(results)["solved"] == results["solving"]["configured"]["solved"]


@pytest.mark.slow
def test_the_baseline_reads_the_same_puzzles(params: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    longer = prompted(params, "random")
    make_shards(longer, tmp_path / "shards")
    behind_cells = partial(behind_prompt, 16)
    train("autoregressive", longer, tmp_path / "shards", tmp_path / "baseline", weights=behind_cells)
    results = compare(params, folder, read_baseline(tmp_path / "baseline"))
    assert all(0.0 <= row["solved"] <= 1.0 for row in results["autoregressive"].values())
    assert {row["rows"] for name in ("solving", "autoregressive") for row in results[name].values()} == {8}
    assert "autoregressive, a cell a call" in puzzle_rows(results)


def test_a_prompt_of_the_baseline_is_the_puzzle_that_sunfish_sees() -> None:
    ids, known = np.array([[5, 6, 7, 0]]), np.array([[True, False, True, True]])
    prompt = behind(Conditioning(ids, known), empty=9)
    assert prompt.ids.tolist() == [[5, 9, 7, 0, 0, 0, 0]]
    assert prompt.known.tolist() == [[True] * 3 + [False] * 4]
