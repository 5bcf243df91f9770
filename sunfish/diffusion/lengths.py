"""How long texts are: the law of row lengths, counted in training, drawn from in sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class RowLengths:
    """The lengths that rows have, in tokens, rising, and how many rows have each; `possible` lengths there
    could be.

    Where a model is `told` a row's length, one is drawn before the text. Where it is not, the text says
    itself where it ends, and a row's length is only how long it may become: the longest, at no cost."""

    lengths: NDArray[np.int64]
    counts: NDArray[np.int64]
    possible: int
    told: bool = True

    @classmethod
    def count(cls, lengths: ArrayLike, possible: int) -> RowLengths:
        """Return the law of these rows."""
        return cls(*np.unique(np.asarray(lengths, np.int64), return_counts=True), possible)

    @property
    def longest(self) -> int:
        """Return the largest length."""
        return int(self.lengths[-1])

    @property
    def usual(self) -> int:
        """Return the length of the row that one text is written in: which half of the rows do not exceed, or
        the longest.
        """
        return (
            int(self.lengths[np.searchsorted(np.cumsum(self.counts), self.counts.sum() / 2)])
            if self.told
            else self.longest
        )

    def shortest_for(self, num_tokens: int) -> int:
        """Return the shortest length that holds so many tokens, or the longest."""
        return int(next((length for length in self.lengths if length >= num_tokens), self.longest))

    def draw(self, num: int, rng: np.random.Generator, at_least: int = 0) -> NDArray[np.int64]:
        """Return `num` lengths of `at_least` tokens; the longest one where none is long enough, or where no
        length is told.
        """
        counts = np.where(self.lengths >= at_least, self.counts, 0)
        if not (self.told and counts.any()):
            return np.full(num, self.longest)
        return rng.choice(self.lengths, size=num, p=counts / counts.sum())

    def nats(self, lengths: ArrayLike) -> NDArray[np.float64]:
        """Return -log p of each length; one row is added to every possible length, so that none is impossible
        (Laplace).
        """
        if not self.told:
            return np.zeros(np.shape(np.atleast_1d(lengths)))
        seen = dict(zip(self.lengths.tolist(), self.counts.tolist(), strict=True))
        ours = np.array([seen.get(int(length), 0) for length in np.atleast_1d(lengths)])
        return np.log(self.counts.sum() + self.possible) - np.log1p(ours)

    def to_json(self) -> dict[str, Any]:
        """Return plain lists; `from_json` reads them back."""
        return {
            "lengths": self.lengths.tolist(),
            "counts": self.counts.tolist(),
            "possible": self.possible,
            "told": self.told,
        }

    @classmethod
    def from_json(cls, lists: dict[str, Any]) -> RowLengths:
        """Rebuild a law from `to_json`; one that does not say so is of a model that is told lengths, as all
        were once.
        """
        return cls(
            np.array(lists["lengths"], np.int64),
            np.array(lists["counts"], np.int64),
            lists["possible"],
            lists.get("told", True),
        )
