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


def draw_lags(order: str, known: np.ndarray, rng: np.random.Generator) -> Array:
    """Return each position's place in the order, (rows, pos): 0 comes first, 1 last; positions that are given take none.

    Raises:
        ValueError: an unknown order.
    """
    if order not in ORDERS:
        raise ValueError(f"unknown order {order!r}; there are {', '.join(ORDERS)}")
    unknown = ~known
    keys = np.arange(known.shape[1]) if order == "forward" else rng.random(known.shape)
    rank = np.argsort(np.argsort(np.where(unknown, keys, np.inf), axis=1, kind="stable"), axis=1)
    return np.where(unknown, rank / np.maximum(unknown.sum(axis=1, keepdims=True) - 1, 1), 0.0)


def clocks(t: ArrayLike, lags: Array, window: ArrayLike) -> Array:
    """Return what each position's clock says, (rows, pos), at times `t` of a walk, (rows,); `window`, in (0, 1], is its share of the walk.

    The last position's window ends at t = 0, the first one's begins at t = 1, the others lie evenly between.
    """
    share = np.broadcast_to(np.asarray(window, np.float64), np.shape(t))[..., None]
    end = (1.0 - share) * (1.0 - lags)
    return np.clip((np.asarray(t, np.float64)[..., None] - end) / share, 0.0, 1.0)
