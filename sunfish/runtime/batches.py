"""Rows sampled together: how many at once, and what became of each."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from sunfish.diffusion.schedule import NoiseSchedule
from sunfish.progress import Progress
from sunfish.runtime.folder import ExportedConfig
from sunfish.runtime.memory import rows_at_once
from sunfish.runtime.prompts import Row
from sunfish.runtime.settings import Resolved
from sunfish.sampling.loop import Conditioning, SamplerPlan, sample
from sunfish.sampling.noise import noise_of
from sunfish.sampling.onnx_backend import OnnxBackend, OpenGraph


@dataclass(frozen=True, eq=False)
class Written:
    """A row as sampled, and what it took."""

    ids: np.ndarray
    calls: int
    corrected: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Batches:
    """A denoiser's graphs, asked about as many rows at once as take little memory."""

    open_graph: OpenGraph
    schedule: NoiseSchedule
    config: ExportedConfig

    def sample(self, rows: list[Row], rngs: list[np.random.Generator], how: Resolved) -> list[Written]:
        """Return what became of each row; rows of one length are sampled together."""
        groups: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            groups.setdefault(len(row.ids), []).append(index)
        written: dict[int, Written] = {}
        with Progress("sample", len(rows), "texts") as progress:
            for length, group in groups.items():
                size = rows_at_once(self.config, length, len(group), how.batch)
                for start in range(0, len(group), size):
                    batch = group[start : start + size]
                    done = self._sample_batch([rows[k] for k in batch], [rngs[k] for k in batch], how)
                    written |= dict(zip(batch, done, strict=True))
                    progress.add(len(batch))
        return [written[index] for index in range(len(rows))]

    def _sample_batch(self, rows: list[Row], rngs: list[np.random.Generator], how: Resolved) -> list[Written]:
        started = time.perf_counter()
        plan, backend, conditioning = self.start(rows, rngs, how)
        sampled = sample(plan, backend, conditioning)
        seconds = (time.perf_counter() - started) / len(rows)
        columns = zip(sampled.ids, sampled.calls.tolist(), sampled.corrected.tolist(), strict=True)
        return [Written(ids, calls, corrected, seconds) for ids, calls, corrected in columns]

    def start(
        self, rows: list[Row], rngs: list[np.random.Generator], how: Resolved
    ) -> tuple[SamplerPlan, OnnxBackend, Conditioning]:
        """Return what `sample_loop` takes, of rows of one length."""
        plan = SamplerPlan.make(how.config, self.schedule)
        ids, known = np.stack([row.ids for row in rows]), np.stack([row.known for row in rows])
        draw = noise_of(rngs, len(rows[0].ids), self.config.model.emb_dim)
        return plan, OnnxBackend(self.open_graph, draw, plan), Conditioning(ids, known)
