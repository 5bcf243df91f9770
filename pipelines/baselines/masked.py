"""Sample with the masked baseline: tokens appear in place of masks. The loop is the denoiser's own."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sunfish.model.baseline import Baseline
from sunfish.sampling.decode import draw_tokens
from sunfish.sampling.loop import Conditioning, Sampled, SamplerPlan, Snapshot, sample
from sunfish.sampling.solvers import SolverTable
from sunfish.sampling.step import CheckStep


class MaskedBackend:
    """The `SamplerBackend` of the masked baseline; the state is ids, some of them masks.

    Of a solver's table it takes the number of steps only. With alpha_t = 1 - t a step from t to s shows each
    masked position with probability (t - s) / t. In even steps that is 1 / (steps left), wherever they start.

    A check is the denoiser's. Behind the corrected token each position is masked again with probability
    `restart_time`, as it would be at that time.

    Source: [MDLM] section 3.3 (ancestral sampling); [MaskGIT] section 3.2 for tokens kept by confidence.
    """

    def __init__(self, baseline: Baseline, plan: SamplerPlan, rngs: list[np.random.Generator]) -> None:
        self.baseline, self.config, self.rngs = baseline, plan.config, rngs
        self.check_step, self.device = CheckStep(baseline), baseline.head_bias.device

    def start(self, conditioning: Conditioning) -> None:
        self.rows = np.arange(len(conditioning.ids))
        ids, self.given = self._tensor(conditioning.ids), self._tensor(conditioning.known)
        self.ids = torch.where(self.given, ids, self.baseline.mask_id)
        self.tokens, self.known, self.rejected = ids, self.given, torch.zeros_like(self.given)
        self.confidence = torch.zeros(ids.shape, device=self.device)

    def denoise(self, table: SolverTable, index: int) -> None:
        show, draw = self._uniforms()
        masked = self.ids == self.baseline.mask_id
        probabilities = (self.baseline(self.ids) / self.config.temperature).softmax(dim=-1)
        tokens = draw_tokens(probabilities, draw, self.config.epsilon_cutoff)
        self.confidence = torch.where(masked, probabilities.gather(2, tokens[..., None]).squeeze(-1), 1.0)
        sure = self.confidence > self.config.confidence_threshold
        shown = masked & (sure | (show < 1.0 / (len(table) - index)))
        self.tokens = torch.where(masked, tokens, self.ids)
        self.ids = torch.where(shown, tokens, self.ids)
        self.known = self.ids != self.baseline.mask_id

    def check(self, epsilon: float, logsnr: float) -> None:
        remask, draw = self._uniforms()
        zero = torch.zeros((), device=self.device)
        noise = zero.expand(*self.ids.shape, self.baseline.config.emb_dim)
        temperature = torch.full((len(self.rows),), self.config.temperature, device=self.device)
        _, self.tokens, self.known, self.rejected = self.check_step(
            self.tokens, self.given, noise, draw, zero + epsilon, zero, temperature
        )
        restart = self.config.check.restart_time if self.config.check else 1.0
        self.ids = torch.where(~self.known & (remask < restart), self.baseline.mask_id, self.tokens)

    def snapshot(self) -> Snapshot:
        confidence = torch.where(self.known, 1.0, self.confidence)
        parts = (self.tokens, confidence, self.known, self.rejected)
        return Snapshot(self.rows, *(part.cpu().numpy() for part in parts))

    def keep(self, going: np.ndarray) -> None:
        self.rows, chosen = self.rows[going], self._tensor(np.flatnonzero(going))
        for name in ("ids", "given", "known", "tokens", "confidence", "rejected"):
            setattr(self, name, getattr(self, name)[chosen])

    def _uniforms(self) -> tuple[Tensor, Tensor]:
        """Return two uniforms a position: whether it is shown or masked, and which token is drawn."""
        shape = 2, self.ids.shape[1]
        drawn = np.stack([self.rngs[row].random(shape, dtype=np.float32) for row in self.rows], axis=1)
        show, draw = self._tensor(drawn).unbind()
        return show, draw

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)


@torch.no_grad()
def sample_masked(
    baseline: Baseline, plan: SamplerPlan, conditioning: Conditioning, rng: np.random.Generator
) -> Sampled:
    """Return the sampled texts of some rows; given positions keep their ids."""
    backend = MaskedBackend(baseline, plan, rng.spawn(len(conditioning.ids)))
    with baseline.embedding.cached_table():
        return sample(plan, backend, conditioning)
