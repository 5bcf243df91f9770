"""torch -> ONNX: the denoiser as one graph with dynamic batch and length, attention decomposed into portable nodes."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from sunfish.model.denoiser import Denoiser

INPUTS = ("x_t", "logsnr", "x_0_prev", "known", "temperature")
OUTPUTS = ("x_0_hat", "logits")
EXAMPLE_BATCH, EXAMPLE_LENGTH = 2, 7  # neither 0 nor 1: those would be taken for constants


class _Plain(nn.Module):
    """The denoiser with a tuple for an answer."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x_t: Tensor, logsnr: Tensor, x_0_prev: Tensor, known: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
        x_0_hat, logits = self.denoiser(x_t, logsnr, x_0_prev, known, temperature)
        return x_0_hat, logits


def export_graph(denoiser: Denoiser, path: Path, opset: int) -> None:
    """Write `model.onnx` (weights beside it above 2 GB)."""
    emb = denoiser.section.emb_dim
    x, previous = torch.zeros(2, EXAMPLE_BATCH, EXAMPLE_LENGTH, emb).unbind()  # two tensors: one given twice becomes one input
    known = torch.zeros(EXAMPLE_BATCH, EXAMPLE_LENGTH, dtype=torch.bool)
    example = (x, torch.zeros(EXAMPLE_BATCH), previous, known, torch.ones(EXAMPLE_BATCH))
    row, text = {0: "batch"}, {0: "batch", 1: "pos"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            _Plain(denoiser.cpu().float()),
            example,
            dynamo=True,
            opset_version=opset,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_shapes=(text, row, text, text, row),
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    size = sum(p.numel() * 4 for p in denoiser.parameters())
    program.save(path, external_data=size > 2**31 - 2**20)
