"""Sample with a torch denoiser. Noise comes from numpy, so the same seed means the same noise on every
backend.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sunfish.model.denoiser import Denoiser
from sunfish.sampling.loop import Conditioning, Sampled, SamplerPlan, Snapshot, sample
from sunfish.sampling.noise import DrawNoise, noise_of
from sunfish.sampling.solvers import SolverTable
from sunfish.sampling.step import CheckStep, DenoiseStep


class TorchBackend:
    """The `SamplerBackend` of a torch denoiser; `draw` gives the noise."""

    def __init__(self, denoiser: Denoiser, draw: DrawNoise, plan: SamplerPlan) -> None:
        self.denoiser, self.draw, self.config = denoiser, draw, plan.config
        self.denoise_step, self.check_step = DenoiseStep(denoiser), CheckStep(denoiser)
        self.device = next(denoiser.parameters()).device

    def start(self, conditioning: Conditioning) -> None:
        self.rows = np.arange(len(conditioning.ids))
        self.ids, self.given = self._tensor(conditioning.ids), self._tensor(conditioning.known)
        self.x, self.uniforms = map(self._tensor, self.draw(self.rows))
        self.known, self.tokens, self.confidence = self.given, self.ids, torch.zeros_like(self.uniforms)
        self.x_0_prev, self.rejected = torch.zeros_like(self.x), torch.zeros_like(self.known)

    def denoise(self, table: SolverTable, index: int) -> None:
        noise = self.x_0_prev  # times c_n = 0
        if table.is_stochastic:
            noise, self.uniforms = self._draw_unknown()
        threshold = 0.0 if index == len(table) - 1 else self.config.confidence_threshold
        self.x, self.x_0_prev, self.ids, self.known, self.tokens, self.confidence = self.denoise_step(
            self.x, self.x_0_prev, self.ids, self.known, noise, self.uniforms,
            self._tensor(table.rows[index]), self._scalar(threshold),
            self._scalar(self.config.epsilon_cutoff),
            self._scalar(table.draws_tokens), self._temperature(),
        )  # fmt: skip

    def check(self, epsilon: float, logsnr: float) -> None:
        noise, uniforms = map(self._tensor, self.draw(self.rows))
        self.x, self.ids, self.known, self.rejected = self.check_step(
            self.tokens,
            self.given,
            noise,
            uniforms,
            self._scalar(epsilon),
            self._scalar(logsnr),
            self._temperature(),
        )
        self.tokens, self.x_0_prev = self.ids, torch.zeros_like(self.x)

    def _draw_unknown(self) -> tuple[Tensor, Tensor]:
        """Draw for the undecided texts alone: the noise of a text depends on no other text.

        Where no token is kept early all are undecided, and nobody looks: it would stall a GPU."""
        if self.config.confidence_threshold == 1.0:
            drawn = self.draw(self.rows)
            return self._tensor(drawn[0]), self._tensor(drawn[1])
        unknown = ~self.known.all(dim=1).cpu().numpy()
        noise, uniforms = self.x_0_prev.clone(), self.uniforms.clone()
        if unknown.any():
            chosen = self._tensor(np.flatnonzero(unknown))
            noise[chosen], uniforms[chosen] = map(self._tensor, self.draw(self.rows[unknown]))
        return noise, uniforms

    def snapshot(self) -> Snapshot:
        confidence = torch.where(self.known, 1.0, self.confidence.float())
        parts = (self.tokens, confidence, self.known, self.rejected)
        return Snapshot(self.rows, *(part.cpu().numpy() for part in parts))

    def keep(self, going: np.ndarray) -> None:
        self.rows, chosen = self.rows[going], self._tensor(np.flatnonzero(going))
        for name in (
            "x",
            "x_0_prev",
            "ids",
            "given",
            "known",
            "tokens",
            "confidence",
            "uniforms",
            "rejected",
        ):
            setattr(self, name, getattr(self, name)[chosen])

    def _tensor(self, values: np.ndarray) -> Tensor:
        values = values.astype(np.float32) if values.dtype == np.float64 else values
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

    def _scalar(self, value: float | bool) -> Tensor:
        return torch.tensor(float(value), device=self.device)

    def _temperature(self) -> Tensor:
        return torch.full((len(self.rows),), self.config.temperature, device=self.device)


@torch.no_grad()
def sample_texts(
    denoiser: Denoiser, plan: SamplerPlan, conditioning: Conditioning, rng: np.random.Generator
) -> Sampled:
    """Return the sampled texts of some rows; given positions keep their ids."""
    rngs = rng.spawn(len(conditioning.ids))
    draw = noise_of(rngs, conditioning.ids.shape[1], denoiser.config.emb_dim)
    with denoiser.cached_readout():
        return sample(plan, TorchBackend(denoiser, draw, plan), conditioning)
