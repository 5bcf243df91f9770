"""Make what a run starts from: the denoiser and its noise law."""

from __future__ import annotations

from sunfish.model.denoiser import Denoiser, init_weights
from sunfish.schedule import LearnedLaw, NoiseLaw, cosine, linear_beta
from sunfish.sections.diffusion import Law
from sunfish.sections.diffusion import Section as Diffusion
from sunfish.sections.model import Section as Model


def build_denoiser(model: Model, diffusion: Diffusion, vocab_size: int, seed: int) -> Denoiser:
    """Return a fresh denoiser; under `eps_mse` and `x0_mse` its embeddings are frozen, since a free target would collapse."""
    denoiser = Denoiser(model, vocab_size)
    init_weights(denoiser, seed)
    denoiser.embedding.weight.requires_grad_(diffusion.objective in ("ce", "elbo"))
    return denoiser


class LawKeeper:
    """The noise law of a run: fixed, or learned from the losses it is shown."""

    def __init__(self, section: Law) -> None:
        self.refit_every = section.refit_every
        self.learned: LearnedLaw | None = None
        if section.kind == "learned":
            self.learned = LearnedLaw(section.logsnr_min, section.logsnr_max, section.num_bins, section.memory, section.floor)
        elif section.kind == "linear-beta":
            self.fixed = linear_beta()
        else:
            self.fixed = cosine(section.logsnr_min, section.logsnr_max)

    @property
    def law(self) -> NoiseLaw:
        """Return the law as it stands."""
        return self.learned.law if self.learned else self.fixed
