"""Sample with torch and see where a decision was so close that rounding may have made it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sunfish.model.denoiser import Denoiser, Prediction
from sunfish.sampling.decode import surprise_cutoff
from sunfish.sampling.loop import Conditioning, SamplerPlan
from sunfish.sampling.noise import DrawNoise
from sunfish.sampling.solvers import SolverTable
from sunfish.sampling.torch_backend import TorchBackend

# a uniform as near as this to where one token's share ends and the next one's begins is a near-tie
NEAR_DRAW = 1e-5


class WatchedBackend(TorchBackend):
    """A `TorchBackend` that marks near-ties.

    `ties`, (batch, pos), are positions whose best two logits were closer than `tie_margin` as they were
    decided. Where a decision has consequences elsewhere, all of its text is marked: a token kept before the
    last step, a drawn token, a token that a check nearly rejected or nearly accepted, any token of a draft
    that is checked.
    """

    def __init__(self, denoiser: Denoiser, draw: DrawNoise, plan: SamplerPlan, tie_margin: float) -> None:
        super().__init__(denoiser, self._recorded, plan)
        self.source, self.tie_margin = draw, tie_margin
        self.alone = plan.config.check is None and plan.config.confidence_threshold == 1.0

    def start(self, conditioning: Conditioning) -> None:
        super().start(conditioning)
        self.ties = np.zeros(conditioning.ids.shape, bool)

    def denoise(self, table: SolverTable, index: int) -> None:
        unknown = ~self.known
        handle = self.denoiser.register_forward_hook(self._see)
        try:
            super().denoise(table, index)
        finally:
            handle.remove()
        probabilities, threshold = self.logits.softmax(dim=-1), self.config.confidence_threshold
        if table.draws_tokens:
            cutoff = torch.tensor(self.config.epsilon_cutoff)
            self._mark(unknown & (distance(probabilities, self.uniforms, cutoff) < NEAR_DRAW))
        else:
            best = self.logits.topk(2).values
            close = unknown & self.known & (best[..., 0] - best[..., 1] < self.tie_margin)
            self._mark(close, alone=self.alone)
        if index < len(table) - 1 and threshold < 1.0:
            self._mark(unknown & ((probabilities.amax(dim=-1) - threshold).abs() < self.tie_margin))

    def check(self, epsilon: float, logsnr: float) -> None:
        tokens, plain = self.tokens, self.denoiser.next_token_logits

        def watched(ids: Tensor, document: Tensor | None = None) -> Tensor:
            return self._keep(plain(ids, document))

        self.denoiser.next_token_logits = watched  # type: ignore[method-assign]
        try:
            super().check(epsilon, logsnr)
        finally:
            del self.denoiser.next_token_logits
        logits = self.logits / self.config.temperature
        probabilities, cutoff = logits.softmax(dim=-1), surprise_cutoff(logits, torch.tensor(epsilon))
        if epsilon > 0.0:
            reached = self.rejected.long().cumsum(dim=1) - self.rejected.long() == 0
            above = probabilities.gather(2, tokens[..., None]).log() - cutoff.log()
            self._mark(reached & (above.squeeze(-1).abs() < self.tie_margin))
        uniforms = torch.from_numpy(self.drawn)
        self._mark(self.rejected & (distance(probabilities, uniforms, cutoff) < NEAR_DRAW))

    def _recorded(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        noise, self.drawn = self.source(rows)
        return noise, self.drawn

    def _see(self, module: object, inputs: object, prediction: Prediction) -> None:
        self.logits = prediction.logits

    def _keep(self, logits: Tensor) -> Tensor:
        self.logits = logits
        return logits

    def _mark(self, close: Tensor, alone: bool = False) -> None:
        """Mark positions, or all of their texts."""
        marks = close if alone else close.any(dim=1, keepdim=True).expand(close.shape)
        self.ties[self.rows] |= marks.numpy()


def distance(probabilities: Tensor, uniforms: Tensor, cutoff: Tensor) -> Tensor:
    """Return how near a uniform fell to where one token's share ends and the next one's begins, (batch, pos).

    Or how near a token came to having a share at all, where that is nearer.
    """
    most = probabilities.amax(dim=-1, keepdim=True)
    kept = torch.where(probabilities >= torch.minimum(most, cutoff), probabilities, 0.0)
    shares = kept.cumsum(dim=-1) / kept.sum(dim=-1, keepdim=True)
    between = (shares - uniforms[..., None]).abs().amin(dim=-1)
    return torch.where(
        cutoff.amax() > 0, torch.minimum(between, (probabilities - cutoff).abs().amin(dim=-1)), between
    )
