"""An exported graph in the denoiser's place: what 8 bits cost is measured on text, not in norms of errors."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import nn

from sunfish.evaluation.context import EvalContext, Numbers
from sunfish.evaluation.held_out import measure_bound
from sunfish.model.attention_mask import DocumentIds
from sunfish.model.denoiser import Denoiser, Prediction
from sunfish.sampling.onnx_backend import open_session
from sunfish.types import Embeddings, KnownMask, LogSnr, PerRow

BOUND_LEVELS = 4  # per row: every precision sees the same draws, so their differences are known well


class ExportedDenoiser(Denoiser):
    """The `model` graph called as the denoiser is; the embeddings are the denoiser's own."""

    def __init__(self, denoiser: Denoiser, graph_path: Path) -> None:
        nn.Module.__init__(self)
        self.session = open_session(graph_path, torch.get_num_threads())
        self.config, self.embedding = denoiser.config, denoiser.embedding

    def forward(
        self, x_t: Embeddings, logsnr: LogSnr, x_0_prev: Embeddings, known: KnownMask,
        temperature: PerRow | None = None, document: DocumentIds | None = None,
    ) -> Prediction:  # fmt: skip
        """Return the graph's prediction; it knows rows of one document only."""
        inputs = {
            "x_t": x_t, "logsnr": logsnr, "x_0_prev": x_0_prev, "known": known,
            "temperature": torch.ones_like(logsnr) if temperature is None else temperature,
        }  # fmt: skip
        arrays = {name: value.cpu().numpy() for name, value in inputs.items()}
        x_0_hat, logits = self.session.run(["x_0_hat", "logits"], arrays)
        return Prediction(torch.from_numpy(x_0_hat), torch.from_numpy(logits))


def bound_of(context: EvalContext, graph_path: Path, num_rows: int) -> Numbers:
    """Return a graph's bound on the first held-out rows, nats per token; all graphs see the same draws.

    Row by row, because a sampler's batch is at one noise level: 8-bit activations have one scale per call,
    and rows at other levels would spoil it."""
    exported = ExportedDenoiser(context.stored.denoiser, graph_path)
    config = dataclasses.replace(context.config, batch_rows=1, bound_rows=num_rows, bound_levels=BOUND_LEVELS)
    stored = dataclasses.replace(context.stored, denoiser=exported)
    _, bound = measure_bound(dataclasses.replace(context, config=config, stored=stored))
    return {key: bound[key] for key in ("nats_per_token", "nats_per_token_standard_error", "rows")}
