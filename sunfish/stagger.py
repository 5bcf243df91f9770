"""Clocks: each position may be denoised at its own time, some before others; numpy without torch.

A walk's time t falls from 1 (noise) to 0 (data). A position's own clock stands at 1 until its window opens, runs to 0 while the window
lasts, and stays there: with a window of 1 all clocks are t itself, and with a narrow one words are decided one after another, each
with those before it clean. A forward process whose clocks do not depend on the text is as good a latent path as any other: the bound
holds along it, and an ideal denoiser has the same bound along every one.

Source: [DiffusionForcing] section 3.1 (a noise level a position), [RollingDiffusion] section 3.1 (a window that moves along a sequence).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sunfish.schedule import Array

ORDERS = ("forward", "random")  # from the first position to the last; in any order, drawn anew for each row


def draw_places(order: str, known: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return each position's place in the order, (rows, pos): 1 comes first; 0 for positions that are given.

    Raises:
        ValueError: an unknown order.
    """
    if order not in ORDERS:
        raise ValueError(f"unknown order {order!r}; there are {', '.join(ORDERS)}")
    keys = np.broadcast_to(np.arange(known.shape[1]), known.shape) if order == "forward" else rng.random(known.shape)
    rank = np.argsort(np.argsort(np.where(known, np.inf, keys), axis=1, kind="stable"), axis=1, kind="stable")
    return np.where(known, 0, rank + 1)


def clocks(t: ArrayLike, lags: ArrayLike, window: ArrayLike) -> Array:
    """Return what each position's clock says at times `t` of its walk; `window`, in (0, 1], is its share of the walk.

    `lags` are 0 for the position that comes first, 1 for the last: the last one's window ends at t = 0, the first one's begins at
    t = 1, the others lie evenly between. All three broadcast.
    """
    share = np.asarray(window, np.float64)
    end = (1.0 - share) * (1.0 - np.asarray(lags, np.float64))
    return np.clip((np.asarray(t, np.float64) - end) / share, 0.0, 1.0)
