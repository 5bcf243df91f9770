"""The founding table on one GPU: seconds of a text by DDPM 1000, DDIM 50, DDIM 10; torch as it is, and the
step as one CUDA graph.

python -m benchmarks.gpu_sampling [--model full] [--length 512] [--batch 1] [--engines eager compiled
"compiled, float8"] [--kernels]"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.float8 import use_float8
from benchmarks.inference import make_denoiser
from benchmarks.record import record, spread
from sunfish.evaluation.speed import founding_tables
from sunfish.model.denoiser import Denoiser
from sunfish.sampling.torch_backend import TorchNetwork
from sunfish.sampling.step import State
from sunfish.sampling.solvers import Given, Table, finish
from sunfish.diffusion.schedule import linear_beta

RUNS = 5


@dataclass(frozen=True)
class Engine:
    """How a step is computed."""

    mode: str | None = None  # of torch.compile; all of these are CUDA graphs
    float8: bool = False  # the products of the blocks, eight bits by eight bits


ENGINES = {
    "eager": Engine(),
    "compiled": Engine("reduce-overhead"),
    "compiled, float8": Engine("reduce-overhead", float8=True),
    "tuned": Engine("max-autotune"),
    "tuned, float8": Engine("max-autotune", float8=True),
}


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
        self.state = State(
            *(value.clone() for value in self.state)
        )  # the graph writes its answers over the ones before


def seconds_of(network: TorchNetwork, table: Table, given: Given) -> float:
    """Return what one walk takes, to the last token."""
    started = time.perf_counter()
    finish(table, network, given, np.zeros(given.ids.shape, np.int64))
    return time.perf_counter() - started


def show_kernels(network: TorchNetwork, table: Table, given: Given) -> None:
    """Print what the GPU did in a walk, the longest first."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        seconds_of(network, table, given)
    print(
        profile.key_averages().table(sort_by="self_cuda_time_total", row_limit=40, max_name_column_width=90)
    )


def measure(name: str, model: str, given: Given, device: str, kernels: bool) -> None:
    """Time the walks of one engine and record them, or show its kernels."""
    engine, denoiser = ENGINES[name], make_denoiser(model, device)
    for part in (*denoiser.transformer.modules(), denoiser.head):
        if isinstance(part, nn.Linear):
            part.to(torch.bfloat16)  # read once a step: at batch 1 that is what a step waits for
    if engine.float8:
        use_float8(denoiser)
    tables, rng = founding_tables(linear_beta()), np.random.default_rng(0)
    with denoiser.held():
        network = CompiledNetwork(denoiser, rng, engine.mode) if engine.mode else DeviceNetwork(denoiser, rng)
        started = time.perf_counter()
        for _ in range(2):
            seconds_of(network, tables["ddim_10"], given)  # compiled and warm
        first = time.perf_counter() - started
        if kernels:
            return show_kernels(network, tables["ddim_10"], given)
        for sampler, table in reversed(tables.items()):
            runs = 1 if engine.mode is None and len(table) > 100 else RUNS
            seconds = [seconds_of(network, table, given) for _ in range(runs)]
            record(
                "GPU sampling", engine=name, model=model, batch=len(given.ids), length=given.ids.shape[1], sampler=sampler,
                seconds=spread(seconds, 4), step_milliseconds=round(1e3 * min(seconds) / len(table), 3), seconds_to_warm=round(first, 1),
            )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="full")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument(
        "--engines", nargs="+", default=["eager", "compiled", "compiled, float8"], choices=list(ENGINES)
    )
    parser.add_argument(
        "--kernels",
        action="store_true",
        help="print where a step's time goes, and time nothing: a profiler slows it",
    )
    parser.add_argument("--device", default="cuda", help="cpu only shows that the script runs")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("this machine shows no CUDA device")
    torch.set_float32_matmul_precision("high")
    given = Given.nothing(arguments.batch, arguments.length)
    for name in arguments.engines:
        with torch.no_grad(), torch.autocast(arguments.device, torch.bfloat16):
            measure(name, arguments.model, given, arguments.device, arguments.kernels)
        torch._dynamo.reset()


if __name__ == "__main__":
    main()
