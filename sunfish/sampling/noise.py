"""Where a sampler's randomness comes from: numpy, whichever backend computes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

DrawNoise = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Rows of the batch -> Gaussian noise, (rows, pos, emb), and uniforms in [0, 1), (rows, pos); float32."""


def noise_of(rngs: list[np.random.Generator], length: int, emb_dim: int) -> DrawNoise:
    """Return noise from one generator a text: a text is the same whichever texts are sampled beside it."""

    def draw(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        theirs = [rngs[row] for row in rows]
        noise = np.stack([rng.standard_normal((length, emb_dim), dtype=np.float32) for rng in theirs])
        return noise, np.stack([rng.random(length, dtype=np.float32) for rng in theirs])

    return draw
