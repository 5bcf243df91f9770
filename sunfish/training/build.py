"""Make what a run starts from: the denoiser and its noise law."""

from __future__ import annotations

from sunfish.model.denoiser import Denoiser, init_weights
from sunfish.diffusion.schedule import AdaptiveSchedule, NoiseSchedule, cosine, linear_beta
from sunfish.config.schema.diffusion import Law
from sunfish.config.schema.diffusion import DiffusionConfig
from sunfish.config.schema.model import ModelConfig


def build_denoiser(model: ModelConfig, diffusion: DiffusionConfig, vocab_size: int, seed: int) -> Denoiser:
    """Return a fresh denoiser; under `eps_mse` and `x0_mse` its embeddings are frozen, since a free target
    would collapse.
    """
    denoiser = Denoiser(model, vocab_size)
    init_weights(denoiser, seed)
    denoiser.embedding.weight.requires_grad_(diffusion.objective in ("ce", "elbo"))
    return denoiser


class LawKeeper:
    """The noise law of a run: fixed, or learned from the losses it is shown."""

    def __init__(self, section: Law) -> None:
        self.refit_every = section.refit_every
        self.learned: AdaptiveSchedule | None = None
        if section.kind == "learned":
            self.learned = AdaptiveSchedule(
                section.logsnr_min, section.logsnr_max, section.num_bins, section.memory, section.floor
            )
        elif section.kind == "linear-beta":
            self.fixed = linear_beta()
        else:
            self.fixed = cosine(section.logsnr_min, section.logsnr_max)

    @property
    def law(self) -> NoiseSchedule:
        """Return the law as it stands."""
        return self.learned.law if self.learned else self.fixed
