"""Hold the exported graph against torch: one call, and whole walks on shared noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from sunfish.model.inference import TorchNetwork
from sunfish.model.store import StoredDenoiser
from sunfish.progress import track
from sunfish.sampler import Given, Table, last_step, walk
from sunfish.session import OnnxNetwork, Session


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return max |a - b| / max |a|."""
    return float(np.abs(ours - theirs).max() / np.abs(ours).max())


def call_error(stored: StoredDenoiser, session: Session, rng: np.random.Generator) -> float:
    """Return the worst relative error of one call, over shapes the graph was not exported with."""
    emb, worst = stored.denoiser.section.emb_dim, 0.0
    for batch, length in ((1, 1), (1, stored.lengths.longest), (3, 5)):
        x, previous = rng.standard_normal((2, batch, length, emb), dtype=np.float32)
        level = rng.uniform(stored.law.logsnr[-1], stored.law.logsnr[0], batch).astype(np.float32)
        known, heat = rng.random((batch, length)) < 0.3, np.ones(batch, np.float32)
        with torch.no_grad():
            ours = stored.denoiser(*map(torch.from_numpy, (x, level, previous, known, heat)))
        for a, b in zip(ours, session.call(x, level, previous, known, heat), strict=True):
            worst = max(worst, relative_error(a.numpy(), b))
    return worst


def walk_parity(
    stored: StoredDenoiser, session: Session, table: Table, num: int, tie_margin: float, batch_rows: int = 32
) -> dict[str, Any]:
    """Return how many of `num` texts' ids differ between torch and ONNX Runtime after a walk on the same noise.

    An id that differs where torch's best two logits are closer than `tie_margin` is a near-tie and counted apart.
    """
    length, embedding = stored.lengths.longest, stored.denoiser.embedding.table().detach().numpy()
    different = near_ties = 0
    for start in track(range(0, num, batch_rows), "parity", "batches", -(-num // batch_rows)):
        count, seed = min(batch_rows, num - start), start
        with torch.no_grad():
            network = TorchNetwork(stored.denoiser, (count, length), np.random.default_rng(seed))
            ours = last_step(walk(table, network, Given.nothing(count, length)))
        noise = _noise(network.shape, np.random.default_rng(seed))
        theirs = last_step(walk(table, OnnxNetwork(session, embedding, noise, count), Given.nothing(count, length)))
        logits = ours.logits.numpy()
        unequal = logits.argmax(-1) != theirs.logits.argmax(-1)
        best = np.sort(logits, axis=-1)[..., -2:]
        tie = best[..., 1] - best[..., 0] < tie_margin
        different += int((unequal & ~tie).sum())
        near_ties += int((unequal & tie).sum())
    return {"texts": num, "steps": len(table), "ids": num * length, "different_ids": different, "near_ties": near_ties}


def _noise(shape: tuple[int, ...], rng: np.random.Generator) -> Callable[[], np.ndarray]:
    return lambda: rng.standard_normal(shape, dtype=np.float32)
