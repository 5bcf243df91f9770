"""Sudoku of 4x4, 6x6 or 9x9 cells: random solved grids, puzzles of one solution, and the oracle.

A grid is one line of digits, row by row; '.' stands for an open cell of a puzzle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import count, islice
from typing import Literal

import numpy as np

BOX_ROWS = {4: 2, 6: 2, 9: 3}  # size -> rows of a box, which has size / rows columns
ENUMERATED = 6  # up to this size all grids of one first row are in memory: 39,168 of 6x6
OPEN = "."

Prompt = Literal["none", "random", "unique"]


@cache
def units_of(size: int) -> tuple[tuple[int, int, int], ...]:
    """Return the row, the column and the box of each cell, as numbers below 3 size."""
    rows = BOX_ROWS[size]
    columns = size // rows
    places = (divmod(cell, size) for cell in range(size**2))
    return tuple((r, size + c, 2 * size + r // rows * rows + c // columns) for r, c in places)


def solutions(cells: Sequence[int], orders: Sequence[Sequence[int]]) -> Iterator[tuple[int, ...]]:
    """Yield every completion of a puzzle, digits row by row, 0 where a cell is open.

    The cell with the fewest digits left goes first; `orders` says in which order a cell tries its digits."""
    found = list(cells)
    units = units_of(round(len(found) ** 0.5))
    used = [0] * 3 * round(len(found) ** 0.5)  # of each unit, a bit for each digit

    def flip(cell: int, digit: int) -> None:
        for unit in units[cell]:
            used[unit] ^= 1 << digit

    def taken(cell: int) -> int:
        row, column, box = units[cell]
        return used[row] | used[column] | used[box]

    def search(left: frozenset[int]) -> Iterator[tuple[int, ...]]:
        if not left:
            yield tuple(found)
            return
        cell = max(left, key=lambda each: taken(each).bit_count())
        free = ~taken(cell)
        for digit in (digit for digit in orders[cell] if free >> digit & 1):
            found[cell] = digit
            flip(cell, digit)
            yield from search(left - {cell})
            flip(cell, digit)

    for cell, digit in enumerate(found):
        if digit:
            flip(cell, digit)
    return search(frozenset(cell for cell, digit in enumerate(found) if not digit))


def rising(size: int) -> list[range]:
    """Return the order in which each cell tries the smallest digit first."""
    return [range(1, size + 1)] * size**2


def with_first_row(size: int) -> list[int]:
    """Return the puzzle of which only the first row is given, 1 to `size`."""
    return [*range(1, size + 1), *[0] * (size**2 - size)]


@cache
def all_grids(size: int) -> np.ndarray:
    """Return all grids whose first row is 1 to `size`, (grids, cells)."""
    return np.array(list(solutions(with_first_row(size), rising(size))), np.int8)


def random_grid(size: int, rng: np.random.Generator) -> np.ndarray:
    """Return the digits of a solved grid, (cells,): all are equally probable up to 6x6.

    9x9 grids come from a search in random order, of which some are a little more probable than others."""
    names = 1 + rng.permutation(size)
    if size <= ENUMERATED:
        grids = all_grids(size)
        return names[grids[rng.integers(len(grids))] - 1]
    orders = rng.permuted(np.array(rising(size)), axis=1).tolist()
    return names[np.array(next(solutions(with_first_row(size), orders))) - 1]


def random_puzzle(grid: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return which cells of a grid are given, bool, (cells,).

    They leave one solution, and without any one of them several."""
    given = np.ones(len(grid), bool)
    for cell in rng.permutation(len(grid)):
        given[cell] = False
        given[cell] = not has_one_solution(grid * given)
    return given


def has_one_solution(puzzle: np.ndarray) -> bool:
    """Say whether there is one completion and no other."""
    found = solutions(puzzle.tolist(), rising(round(len(puzzle) ** 0.5)))
    return len(list(islice(found, 2))) == 1


def is_solved(text: str, size: int) -> bool:
    """Say whether a text is a grid whose rows, columns and boxes hold each digit once."""
    digits = "".join(map(str, range(1, size + 1)))
    if len(text) != size**2 or set(text) != set(digits):
        return False
    filled = {(unit, digit) for units, digit in zip(units_of(size), text, strict=True) for unit in units}
    return len(filled) == 3 * size**2


def write_puzzles(seed: int, first: int, size: int, prompt: Prompt) -> Iterator[str]:
    """Yield solved grids from the `first` on, without end; grid k depends on (seed, k) only.

    With a `prompt` a puzzle stands before its solution: with random cells given, as many as there may be,
    or with those of `random_puzzle`."""
    for index in count(first):
        rng = np.random.default_rng((seed, index))
        grid = random_grid(size, rng)
        given = _given(grid, prompt, rng)
        puzzle = "" if given is None else "".join(map(str, grid * given)).replace("0", OPEN)
        yield puzzle + "".join(map(str, grid))


def _given(grid: np.ndarray, prompt: Prompt, rng: np.random.Generator) -> np.ndarray | None:
    if prompt == "random":
        return rng.random(len(grid)) < rng.random()
    return random_puzzle(grid, rng) if prompt == "unique" else None
