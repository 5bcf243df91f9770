"""How long texts are: the distribution of row lengths, counted in training, drawn from in sampling."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sunfish.errors import require

GROUPS = 8  # of instructions, by their lengths


@dataclass(frozen=True)
class RowLengths:
    """The lengths that rows have, in tokens, rising, and how many rows have each; `possible` lengths there
    could be.

    A model with `length_conditioning` is told a row's length, so one is drawn before the text.
    """

    lengths: tuple[int, ...]
    counts: tuple[int, ...]
    possible: int

    def __post_init__(self) -> None:
        alike = len(self.lengths) == len(self.counts) > 0
        require(alike, "lengths", "and counts must be two equally long lists, not empty")
        rising = list(self.lengths) == sorted(set(self.lengths)) and self.lengths[0] > 0
        require(rising, "lengths", "must be above 0 and rise")
        require(min(self.counts) > 0, "counts", "must be above 0")

    @classmethod
    def count(cls, lengths: ArrayLike, possible: int) -> RowLengths:
        """Return the distribution of these rows."""
        values, counts = np.unique(np.asarray(lengths, np.int64), return_counts=True)
        return cls(tuple(values.tolist()), tuple(counts.tolist()), possible)

    @property
    def longest(self) -> int:
        """Return the largest length."""
        return self.lengths[-1]

    @property
    def median(self) -> int:
        """Return the length that half of the rows do not exceed."""
        return self.lengths[int(np.searchsorted(np.cumsum(self.counts), sum(self.counts) / 2))]

    def shortest_for(self, num_tokens: int) -> int:
        """Return the shortest length that holds so many tokens, or the longest."""
        return next((length for length in self.lengths if length >= num_tokens), self.longest)

    def draw(self, num: int, rng: np.random.Generator, at_least: int = 0) -> NDArray[np.int64]:
        """Return `num` lengths of `at_least` tokens; the longest where none is long enough."""
        lengths = np.array(self.lengths, np.int64)
        counts = np.where(lengths >= at_least, self.counts, 0)
        if not counts.any():
            return np.full(num, self.longest)
        return rng.choice(lengths, size=num, p=counts / counts.sum())

    def nats(self, lengths: ArrayLike) -> NDArray[np.float64]:
        """Return -log p of each length; one row is added to every possible length, so that none is
        impossible.

        Source: Laplace's rule of succession.
        """
        seen = dict(zip(self.lengths, self.counts, strict=True))
        ours = np.array([seen.get(int(length), 0) for length in np.atleast_1d(lengths)])
        return np.log(sum(self.counts) + self.possible) - np.log1p(ours)


@dataclass(frozen=True)
class AnswerLengths:
    """How many positions answers have, their end tokens included, by how long their instructions are.

    `lengths[k]` is of instructions of at most `up_to[k]` tokens, and of more than `up_to[k - 1]`.
    """

    up_to: tuple[int, ...]
    lengths: tuple[RowLengths, ...]

    def __post_init__(self) -> None:
        alike = len(self.up_to) == len(self.lengths) > 0 and list(self.up_to) == sorted(set(self.up_to))
        require(alike, "up_to", "must rise and be as many as lengths, at least one")

    @classmethod
    def count(
        cls, instructions: NDArray[np.int64], answers: NDArray[np.int64], possible: int
    ) -> AnswerLengths:
        """Return the distribution of these tasks, (tasks,) each, in groups of about as many."""
        shares = np.arange(1, GROUPS + 1) / GROUPS
        up_to = np.unique(np.quantile(instructions, shares, method="higher"))
        group = np.searchsorted(up_to, instructions)
        counted = (RowLengths.count(answers[group == k], possible) for k in range(len(up_to)))
        return cls(tuple(up_to.tolist()), tuple(counted))

    @property
    def longest(self) -> int:
        """Return how many positions an instruction and its answer have at most."""
        return max(most + each.longest for most, each in zip(self.up_to, self.lengths, strict=True))

    def behind(self, num_tokens: int) -> RowLengths:
        """Return how long answers to an instruction of so many tokens are."""
        return self.lengths[min(bisect_left(self.up_to, num_tokens), len(self.up_to) - 1)]

    def medians(self) -> AnswerLengths:
        """Return the distribution in which an answer has the median length of its group."""
        alone = (RowLengths((each.median,), (1,), each.possible) for each in self.lengths)
        return AnswerLengths(self.up_to, tuple(alone))
