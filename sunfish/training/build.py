"""Make what a run starts from."""

from __future__ import annotations

from sunfish.config.schema.diffusion import DiffusionConfig
from sunfish.config.schema.model import ModelConfig
from sunfish.diffusion.objectives import OBJECTIVES
from sunfish.model.denoiser import Denoiser
from sunfish.model.initial import init_weights


def build_denoiser(model: ModelConfig, diffusion: DiffusionConfig, vocab_size: int, seed: int) -> Denoiser:
    """Return a fresh denoiser; its embeddings are frozen under an objective that would make them collapse."""
    denoiser = Denoiser(model, vocab_size)
    init_weights(denoiser, seed)
    denoiser.embedding.weight.requires_grad_(OBJECTIVES[diffusion.objective].trains_embeddings)
    denoiser.causal_embedding.requires_grad_(diffusion.check_weight > 0)  # else nothing would train it
    return denoiser
