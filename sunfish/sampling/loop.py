"""Noise -> text: the plain loop over a solver's table, and draft, check, correct, draft again.

A backend holds the texts' state and runs the denoiser, with torch or with ONNX Runtime; the loop only says
what comes next. All unknown positions are denoised together at every step. What is decided from left to right
is only which part of a draft is accepted by a check."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

import numpy as np

from sunfish.config.schema.sampler import SamplerConfig
from sunfish.diffusion.schedule import NoiseSchedule
from sunfish.sampling.solvers import SAMPLERS, SolverTable, time_grid


@dataclass(frozen=True, eq=False)
class Conditioning:
    """Which positions are given, and which tokens they hold."""

    ids: np.ndarray  # (batch, pos)
    known: np.ndarray  # bool, (batch, pos)

    @classmethod
    def nothing(cls, num: int, length: int) -> Conditioning:
        """Return rows of which nothing is given."""
        return cls(np.zeros((num, length), np.int64), np.zeros((num, length), bool))


class Snapshot(NamedTuple):
    """The texts still in the making, as they stand: their rows in the batch, and for each (row, pos)."""

    rows: np.ndarray
    tokens: np.ndarray
    confidence: np.ndarray  # probability of the token, 1 where known
    known: np.ndarray
    rejected: np.ndarray  # by the check just made


class SamplerBackend(Protocol):
    """Texts in the making. Rows are those of the batch; `keep` drops the ones that are done."""

    def start(self, conditioning: Conditioning) -> None:
        """Draw noise for all that is not given."""

    def denoise(self, table: SolverTable, index: int) -> None:
        """Take the table's step `index`; after the last one every position is known."""

    def check(self, epsilon: float, logsnr: float) -> None:
        """Accept, correct, and noise the rest anew, at `logsnr`."""

    def snapshot(self) -> Snapshot:
        """Return where the texts stand."""

    def keep(self, going: np.ndarray) -> None:
        """Go on with these of the texts only; bool, (rows,)."""


@dataclass(frozen=True, eq=False)
class SamplerPlan:
    """All that a loop walks over: the first draft's table, the later ones', and what a check needs."""

    config: SamplerConfig
    draft: SolverTable
    redraft: SolverTable | None  # None: no check
    restart_logsnr: float = 0.0

    @classmethod
    def make(cls, config: SamplerConfig, schedule: NoiseSchedule) -> SamplerPlan:
        """Return the plan of a configuration."""
        solver, check = SAMPLERS[config.name], config.check
        draft = solver(time_grid(schedule), config.steps, config)
        if check is None:
            return cls(config, draft, None)
        redraft = solver(time_grid(schedule, check.restart_time), check.steps, config)
        return cls(config, draft, redraft, float(redraft.logsnr[0]))

    def max_rounds(self, length: int) -> int:
        """Return how many checks a text of `length` tokens takes at most."""
        check = self.config.check
        return 0 if check is None else check.max_rounds or length

    def without_check(self) -> SamplerPlan:
        """Return the plan of the draft alone."""
        return replace(self, config=replace(self.config, check=None), redraft=None)


class Event(NamedTuple):
    """A call just made: a step of a draft, or a check, and for which rows of the batch."""

    kind: Literal["denoise", "check"]
    round: int  # drafts, from 0
    step: int  # of the draft, from 0
    rows: np.ndarray


@dataclass(frozen=True, eq=False)
class Sampled:
    """Texts, and what each took."""

    ids: np.ndarray  # (batch, pos)
    calls: np.ndarray  # (batch,): denoising steps and checks
    corrected: np.ndarray  # (batch,): tokens that a check replaced


def sample_loop(plan: SamplerPlan, backend: SamplerBackend, conditioning: Conditioning) -> Iterator[Event]:
    """Yield after each call, until every text is done.

    Without a check: one draft. With one: draft, check, and while a token is rejected, draft again what is not
    yet accepted, from the noise level of `check.restart_time`, given what is.

    Source: [TiDAR] for a draft in parallel that one causal pass of the same network verifies.
    """
    backend.start(conditioning)
    check, max_rounds = plan.config.check, plan.max_rounds(conditioning.ids.shape[1])
    table: SolverTable | None = plan.draft
    for round_ in itertools.count():
        assert table is not None  # a check comes with a table for the next draft
        yield from _draft(plan, table, backend, round_)
        if check is None or round_ == max_rounds:
            return
        backend.check(check.epsilon, plan.restart_logsnr)
        state, table = backend.snapshot(), plan.redraft
        yield Event("check", round_, 0, state.rows)
        going = np.asarray(~state.known.all(axis=1))
        if not going.any():
            return
        backend.keep(going)


def _draft(plan: SamplerPlan, table: SolverTable, backend: SamplerBackend, round_: int) -> Iterator[Event]:
    """Denoise all unknown positions over a table; where tokens are kept early, texts that are done take no
    more calls.
    """
    rows = backend.snapshot().rows
    for step in range(len(table)):
        backend.denoise(table, step)
        yield Event("denoise", round_, step, rows)
        if plan.config.confidence_threshold < 1.0:  # else nobody looks: a GPU would have to be waited for
            state = backend.snapshot()
            rows = state.rows[~state.known.all(axis=1)]
            if not len(rows):
                return


def sample(plan: SamplerPlan, backend: SamplerBackend, conditioning: Conditioning) -> Sampled:
    """Sample to the end."""
    ids = conditioning.ids.copy()
    calls, corrected = np.zeros(len(ids), np.int64), np.zeros(len(ids), np.int64)
    for event in sample_loop(plan, backend, conditioning):
        calls[event.rows] += 1
        if event.kind == "check":
            now = backend.snapshot()
            ids[now.rows] = now.tokens
            corrected[now.rows] += (now.rejected & ~conditioning.known[now.rows]).any(axis=1)
    now = backend.snapshot()
    ids[now.rows] = now.tokens
    return Sampled(ids, calls, corrected)
