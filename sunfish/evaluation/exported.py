"""An exported graph evaluated as the denoiser it was made from: what 8 bits cost is measured in text, not in
error norms.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from sunfish.evaluation.context import EvalContext, Numbers
from sunfish.evaluation.held_out import measure_bound
from sunfish.model.attention_mask import OPEN
from sunfish.model.denoiser import Denoiser, Prediction
from sunfish.sampling.onnx_backend import open_session

MOST_BLOCKS, LEVELS = 64, 4  # of a graph's bound: it takes a call for each block, twice at each level


class ExportedDenoiser(nn.Module):
    """A denoiser's graph in the place of the denoiser; embeddings are the denoiser's own."""

    def __init__(self, denoiser: Denoiser, graph: Path) -> None:
        super().__init__()
        self.denoiser, self.session = denoiser, open_session(graph, torch.get_num_threads())
        self.section, self.end_id = denoiser.section, denoiser.end_id
        self.embedding, self.embed = denoiser.embedding, denoiser.embed

    def forward(
        self,
        x_t: Tensor,
        logsnr: Tensor,
        x_0_prev: Tensor,
        known: Tensor,
        turn: Tensor,
        temperature: Tensor | None = None,
    ) -> Prediction:
        heat = x_t.new_ones(len(x_t)) if temperature is None else temperature
        told = {
            "x_t": x_t,
            "logsnr": logsnr,
            "x_0_prev": x_0_prev,
            "known": known,
            "turn": turn,
            "temperature": heat,
        }
        x_0_hat, logits = self.session.run(
            ["x_0_hat", "logits"], {name: value.numpy() for name, value in told.items()}
        )
        return Prediction(torch.from_numpy(x_0_hat), torch.from_numpy(logits))

    def predict_blocks(
        self, x_0_prev: Tensor, x_0: Tensor, x_t: Tensor, logsnr: Tensor, known: Tensor, place: Tensor, start: Tensor,
        document: None = None, temperature: Tensor | None = None,
    ) -> Prediction:  # fmt: skip
        return in_turn(self, x_0_prev, x_0, x_t, logsnr, known, place, start, temperature)


def in_turn(
    denoiser: nn.Module, x_0_prev: Tensor, x_0: Tensor, x_t: Tensor, logsnr: Tensor, known: Tensor, place: Tensor, start: Tensor,
    temperature: Tensor | None = None,
) -> Prediction:  # fmt: skip
    """Return what `Denoiser.predict_blocks` returns, by a call for each block, as sampling comes to it:
    graphs know one copy only.
    """
    answer: Prediction | None = None
    for first in start[~known].unique().tolist():
        done, here = place < first, ~known & (start == first)
        turn = torch.where(done, place, torch.where(here, OPEN, OPEN + 1))
        x = torch.where(done[..., None], x_0, x_t)
        now = denoiser(x, logsnr, x_0_prev, done, turn, temperature)
        answer = (
            now
            if answer is None
            else Prediction(*(torch.where(here[..., None], b, a) for a, b in zip(answer, now, strict=True)))
        )
    return answer or denoiser(x_0, logsnr, x_0_prev, known, place, temperature)


def bound_of(subject: EvalContext, graph: Path, num_rows: int) -> Numbers:
    """Return a graph's bound on the first held-out rows, nats per token, in blocks as evaluated or larger;
    all graphs see the same draws.

    Row by row, as sampling sees it: there a batch is at one noise level. Activations in 8 bits have one scale
    a call, and rows at other levels would spoil it."""
    longest = subject.stored.lengths.longest
    together = max(subject.section.bound_together or longest, math.ceil(longest / MOST_BLOCKS))
    subject = subject.told(batch_rows=1, bound_rows=num_rows, bound_levels=LEVELS, bound_together=together)
    _, bound = measure_bound(_in_place(subject, graph))
    return {"nats_per_token": bound["nats_per_token"], "rows": num_rows, "together": together}


def judge_of(subject: EvalContext, graph: Path, num: int) -> Numbers:
    """Return what is said of `num` texts that a graph writes, sampled as the evaluation samples."""
    subject = _in_place(subject, graph)
    return subject.judge(subject.write_texts(num, seed=1))


def _in_place(subject: EvalContext, graph: Path) -> EvalContext:
    exported = cast(
        Denoiser, ExportedDenoiser(subject.stored.denoiser, graph)
    )  # all that an evaluation asks of one
    return dataclasses.replace(subject, stored=dataclasses.replace(subject.stored, denoiser=exported))
