"""The training step against the machine's own matrix-product rate and a plain PyTorch implementation,
interleaved in one run.

python -m benchmarks.training [--model mini] [--batch 32] [--compile]
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.record import composed, interleave, recipe_of, record, spread
from sunfish.config.schema.model import ModelConfig
from sunfish.training.cost import matmul_rate, passes, step_operations
from sunfish.training.parallel import flushing_denormals, make_fabric
from sunfish.training.train_step import start_run, train_step

STORIES = 567, 36  # vocabulary and usual row


class Plain(nn.Module):
    """Embedding diffusion as older code trains it: nn.TransformerEncoder on noisy embeddings, time added, x_0
    regressed, rounding loss.

    Logits come from x_0_hat and the embeddings or, for a model with a head of its own, from such a head, so
    that sizes are equal."""

    def __init__(self, model: ModelConfig, vocab_size: int, length: int) -> None:
        super().__init__()
        width, emb = model.width, model.emb_dim
        self.embedding = nn.Embedding(vocab_size, emb)
        self.in_proj, self.out_proj = nn.Linear(2 * emb, width), nn.Linear(width, emb)
        self.time = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.position = nn.Parameter(torch.zeros(length, width))
        layer = nn.TransformerEncoderLayer(
            width,
            model.num_heads,
            4 * width,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.encoder = nn.TransformerEncoder(layer, model.num_layers, enable_nested_tensor=False)
        self.head = None if model.tied_head else nn.Linear(width, vocab_size, bias=False)
        self.frequencies = torch.exp(torch.linspace(0, 6, 32))

    def hidden(self, x_t: torch.Tensor, t: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
        angles = t[:, None] * self.frequencies
        time = self.time(torch.cat((angles.sin(), angles.cos()), dim=-1))
        hidden = (
            self.in_proj(torch.cat((x_t, previous), dim=-1)) + self.position[: x_t.shape[1]] + time[:, None]
        )
        return self.encoder(hidden)

    def loss(self, ids: torch.Tensor) -> torch.Tensor:
        x_0, t = self.embedding(ids), torch.rand(len(ids))
        abar = torch.cos(t * torch.pi / 2)[:, None, None] ** 2
        x_t = abar.sqrt() * x_0 + (1 - abar).sqrt() * torch.randn_like(x_0)
        previous, half = torch.zeros_like(x_0), len(ids) // 2
        with torch.no_grad():
            previous[:half] = self.out_proj(self.hidden(x_t[:half], t[:half], previous[:half]))
        hidden = self.hidden(x_t, t, previous)
        x_0_hat = self.out_proj(hidden)
        logits = x_0_hat @ self.embedding.weight.T if self.head is None else self.head(hidden)
        return F.mse_loss(x_0_hat, x_0) + F.cross_entropy(logits.flatten(0, 1), ids.flatten())


@flushing_denormals()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--vocab", type=int, default=STORIES[0])
    parser.add_argument("--length", type=int, default=STORIES[1])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=5, help="of each variant in a round")
    parser.add_argument(
        "--compile", action="store_true", help="our blocks by torch.compile; the plain one stays as it is"
    )
    arguments = parser.parse_args()
    batch = (
        [f"pretrain.batch_rows={arguments.batch}", f"pretrain.micro_rows={arguments.batch}"]
        if arguments.batch
        else []
    )
    params = composed(
        f"model={arguments.model}", *batch, "data=stories", "pretrain.activation_checkpointing=none"
    )
    vocab_size, length, rows, model = (
        arguments.vocab,
        arguments.length,
        params["pretrain"].batch_rows,
        params["model"],
    )
    run = start_run(make_fabric(params["launch"]), recipe_of(params), vocab_size, arguments.compile)
    plain = Plain(model, vocab_size, length)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-4)
    ids = np.random.default_rng(0).integers(vocab_size, size=(rows, length))
    as_many = np.resize(ids, (passes(params["diffusion"]) * rows, length))  # as our passes see together
    rates: list[float] = []

    def ours() -> None:
        for _ in range(arguments.steps):
            train_step(run, ids)

    def theirs() -> None:
        for _ in range(arguments.steps):
            plain.loss(torch.from_numpy(as_many)).backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    seconds = interleave(
        arguments.rounds, rate=lambda: rates.append(matmul_rate(repeats=20)), ours=ours, plain=theirs
    )
    operations = step_operations(model, params["diffusion"], vocab_size, rows, length)
    steps = [value / arguments.steps for value in seconds["ours"]]
    record(
        "training step",
        model=arguments.model,
        compiled=arguments.compile,
        rows=rows,
        length=length,
        vocabulary=vocab_size,
        precision=run.fabric._precision.precision,
        step_seconds=spread(steps, 5),
        matmul_gflops=spread([rate / 1e9 for rate in rates[1:]], 1),
        operations_per_step=operations,
        share_of_matmul_rate=spread([operations / s / r for s, r in zip(steps, rates[1:], strict=True)]),
        tokens_per_second=round(rows * length / sorted(steps)[len(steps) // 2]),
        times_plain_tokens_per_second=spread(
            [b / a for a, b in zip(seconds["ours"], seconds["plain"], strict=True)]
        ),
        plain_parameters=sum(p.numel() for p in plain.parameters()),
        parameters=sum(p.numel() for p in run.denoiser.parameters()),
    )


if __name__ == "__main__":
    main()
