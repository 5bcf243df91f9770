"""Chosen documents, in their order -> which of them make which shard."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sunfish.files import replacing

CHOSEN = np.dtype([("piece", "<u4"), ("document", "<u4")])


class Cutter:
    """Cuts a split's documents into shards of at most `shard_tokens`, or of one document."""

    def __init__(self, out: Path, split: str, shard_tokens: int) -> None:
        self.out, self.split, self.shard_tokens = out, split, shard_tokens
        self.waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self.names: list[str] = []

    def add(self, chosen: np.ndarray, tokens: np.ndarray) -> None:
        """Take in documents, (num,) of CHOSEN, and their tokens, (num,)."""
        self.waiting.append((chosen, tokens))
        if sum(int(t.sum()) for _, t in self.waiting) > self.shard_tokens:
            self._cut(final=False)

    def close(self) -> list[str]:
        """Write what is left and return the names of all shards; there is one at least."""
        self._cut(final=True)
        if not self.names:
            _write_choice(self.out, f"{self.split}-00000", np.empty(0, CHOSEN))
            self.names.append(f"{self.split}-00000")
        return self.names

    def _cut(self, final: bool) -> None:
        chosen = np.concatenate([np.empty(0, CHOSEN), *(chosen for chosen, _ in self.waiting)])
        tokens = np.concatenate([np.empty(0, np.int64), *(tokens for _, tokens in self.waiting)])
        while len(chosen):
            count = max(1, int(np.searchsorted(np.cumsum(tokens), self.shard_tokens, side="right")))
            if count == len(chosen) and not final:
                break
            name = f"{self.split}-{len(self.names):05d}"
            _write_choice(self.out, name, chosen[:count])
            self.names.append(name)
            chosen, tokens = chosen[count:], tokens[count:]
        self.waiting = [(chosen, tokens)] if len(chosen) else []


def _write_choice(out: Path, name: str, chosen: np.ndarray) -> None:
    with replacing(out / f"{name}.npy") as temporary, temporary.open("wb") as file:
        np.save(file, chosen, allow_pickle=False)
