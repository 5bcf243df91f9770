"""An exported graph evaluated as the denoiser it was made from: what 8 bits cost is measured in text, not in error norms."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from sunfish.evaluation.held_out import measure_bound
from sunfish.evaluation.subject import Numbers, Subject
from sunfish.model.denoiser import Denoiser, Prediction
from sunfish.session import open_session


class ExportedDenoiser(nn.Module):
    """A denoiser's graph in the place of the denoiser; embeddings are the denoiser's own."""

    def __init__(self, denoiser: Denoiser, graph: Path) -> None:
        super().__init__()
        self.denoiser, self.session = denoiser, open_session(graph, torch.get_num_threads())
        self.section, self.embedding, self.embed = denoiser.section, denoiser.embedding, denoiser.embed

    def forward(self, x_t: Tensor, logsnr: Tensor, x_0_prev: Tensor, known: Tensor, temperature: Tensor | None = None) -> Prediction:
        heat = x_t.new_ones(len(x_t)) if temperature is None else temperature
        told = {"x_t": x_t, "logsnr": logsnr, "x_0_prev": x_0_prev, "known": known, "temperature": heat}
        x_0_hat, logits = self.session.run(["x_0_hat", "logits"], {name: value.numpy() for name, value in told.items()})
        return Prediction(torch.from_numpy(x_0_hat), torch.from_numpy(logits))


def bound_of(subject: Subject, graph: Path, num_rows: int) -> Numbers:
    """Return a graph's bound on the first held-out rows, nats per token; the draws are the same for every graph.

    Row by row, as sampling sees it: there a batch is at one noise level. Activations in 8 bits have one scale a call, and rows at other
    levels would spoil it.
    """
    subject = dataclasses.replace(subject, section=dataclasses.replace(subject.section, batch_rows=1, bound_rows=num_rows))
    _, bound = measure_bound(_in_place(subject, graph))
    return {"nats_per_token": bound["nats_per_token"], "rows": num_rows}


def judge_of(subject: Subject, graph: Path, num: int) -> Numbers:
    """Return what is said of `num` texts that a graph writes, sampled as the evaluation samples."""
    subject = _in_place(subject, graph)
    return subject.judge(subject.write_texts(num, seed=1))


def _in_place(subject: Subject, graph: Path) -> Subject:
    exported = cast(Denoiser, ExportedDenoiser(subject.stored.denoiser, graph))  # all that an evaluation asks of one
    return dataclasses.replace(subject, stored=dataclasses.replace(subject.stored, denoiser=exported))
