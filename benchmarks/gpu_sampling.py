"""The founding table on one GPU: seconds of a text by DDPM 1000, DDIM 50, DDIM 10; torch as it is, and the step as one CUDA graph.

python -m benchmarks.gpu_sampling [--model full] [--length 512] [--batch 1] [--engines eager compiled tuned]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.inference import make_denoiser
from benchmarks.record import record, spread
from sunfish.evaluation.speed import founding_tables
from sunfish.model.denoiser import Denoiser
from sunfish.model.inference import TorchNetwork
from sunfish.model.step import State
from sunfish.sampler import Given, Table, finish
from sunfish.schedule import linear_beta

RUNS = 5
ENGINES = {"eager": None, "compiled": "reduce-overhead", "tuned": "max-autotune"}  # torch.compile's modes; the last two are CUDA graphs


class DeviceNetwork(TorchNetwork):
    """A walk whose noise and chance are drawn where they are used."""

    def _noise(self) -> Tensor:
        return torch.randn(self.shape, device=self.device)

    def _chance(self) -> Tensor:
        return torch.rand(self.shape[:2], device=self.device)


class CompiledNetwork(DeviceNetwork):
    """A walk whose step is one CUDA graph, recorded once and replayed."""

    def __init__(self, denoiser: Denoiser, rng: np.random.Generator, mode: str) -> None:
        super().__init__(denoiser, rng)
        self.moves = {kind: torch.compile(move, mode=mode) for kind, move in self.moves.items()}

    def start(self, table: Table, given: Given, place: np.ndarray) -> None:
        super().start(table, given, place)
        torch._dynamo.mark_dynamic(self.rows, 0)  # compiled once, whatever the table

    def step(self, left: int) -> None:
        torch.compiler.cudagraph_mark_step_begin()
        super().step(left)
        self.state = State(*(value.clone() for value in self.state))  # the graph writes its answers over the ones before


def seconds_of(network: TorchNetwork, table: Table, given: Given) -> float:
    """Return what one walk takes, to the last token."""
    started = time.perf_counter()
    finish(table, network, given, np.zeros(given.ids.shape, np.int64))
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="full")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--device", default="cuda", help="cpu only shows that the script runs")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("this machine shows no CUDA device")
    torch.set_float32_matmul_precision("high")
    denoiser = make_denoiser(arguments.model, arguments.device)
    for part in (*denoiser.transformer.modules(), denoiser.head):
        if isinstance(part, nn.Linear):
            part.to(torch.bfloat16)  # read once a step: at batch 1 that is what a step waits for
    given, rng = Given.nothing(arguments.batch, arguments.length), np.random.default_rng(0)
    with torch.no_grad(), torch.autocast(arguments.device, torch.bfloat16), denoiser.held():
        for engine in arguments.engines:
            mode, tables = ENGINES[engine], founding_tables(linear_beta())
            network = CompiledNetwork(denoiser, rng, mode) if mode else DeviceNetwork(denoiser, rng)
            started = time.perf_counter()
            for _ in range(2):
                seconds_of(network, tables["ddim_10"], given)  # compiled and warm
            first = time.perf_counter() - started
            for name, table in reversed(tables.items()):
                seconds = [seconds_of(network, table, given) for _ in range(1 if mode is None and len(table) > 100 else RUNS)]
                record(
                    "GPU sampling", engine=engine, model=arguments.model, batch=arguments.batch, length=arguments.length, sampler=name,
                    seconds=spread(seconds, 4), step_milliseconds=round(1e3 * min(seconds) / len(table), 3),
                    seconds_to_warm=round(first, 1),
                )  # fmt: skip


if __name__ == "__main__":
    main()
