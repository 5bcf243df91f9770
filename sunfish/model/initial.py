"""How large a model is, and what its weights are before training."""

from __future__ import annotations

import torch
from torch import nn

from sunfish.config.schema.model import ModelConfig
from sunfish.model.denoiser import Denoiser
from sunfish.model.embedding import NUM_FREQUENCIES

# ends of the names of all that starts at zero
WRITING = ("attention.out.weight", "down.weight", "head.weight")
ZEROS = (*WRITING, "bias", "shift", "known_embedding", "causal_embedding")


def count_parameters(config: ModelConfig, vocab_size: int) -> int:
    """Return how many parameters a denoiser of this size has, without building it."""
    width, emb, cond = config.width, config.emb_dim, config.cond_dim
    block = 12 * width**2 + 4 * width  # attention 4, MLP 8; two norms
    fourier = (2 * NUM_FREQUENCIES + 1) * cond + (cond + 1) * width  # twice: noise level, position
    head = width * (emb if config.tied_head else vocab_size) + vocab_size
    around = vocab_size * emb + config.in_features * width + 2 * width + head
    return config.num_layers * block + 2 * fourier + around


def init_weights(model: nn.Module, seed: int) -> None:
    """Draw weights from `seed`; all that writes to the residual stream or the logits starts at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(ZEROS):
                parameter.zero_()
            elif name.endswith("scale"):
                parameter.fill_(1.0)
            else:
                std = 1.0 if name == "embedding.weight" else parameter.shape[-1] ** -0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
        if isinstance(model, Denoiser):  # the estimate before, which some trainings never give
            model.in_proj.weight[:, model.config.emb_dim : 2 * model.config.emb_dim] = 0
