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

from benchmarks.engines import plain_plan
from benchmarks.float8 import use_float8
from benchmarks.inference import make_denoiser
from benchmarks.record import record, spread
from sunfish.model.denoiser import Denoiser
from sunfish.sampling.loop import Conditioning, SamplerPlan, sample
from sunfish.sampling.noise import noise_of
from sunfish.sampling.solvers import SolverTable
from sunfish.sampling.torch_backend import TorchBackend

RUNS = 5
SAMPLERS = (("ddpm", 1000), ("ddim", 50), ("ddim", 10))
OUTPUTS = ("x", "x_0_prev", "ids", "known", "tokens", "confidence")


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


class DeviceBackend(TorchBackend):
    """Texts whose noise is drawn where it is used."""

    def start(self, conditioning: Conditioning) -> None:
        super().start(conditioning)
        self.x = torch.randn_like(self.x)

    def denoise(self, table: SolverTable, index: int) -> None:
        torch.compiler.cudagraph_mark_step_begin()
        super().denoise(table, index)
        for name in OUTPUTS:  # a CUDA graph writes its outputs over the ones before
            setattr(self, name, getattr(self, name).clone())

    def _draw_unknown(self) -> tuple[Tensor, Tensor]:
        return torch.randn_like(self.x), torch.rand_like(self.uniforms)


def seconds_of(backend: TorchBackend, plan: SamplerPlan, conditioning: Conditioning) -> float:
    """Return what one draft takes, to the last token."""
    started = time.perf_counter()
    sample(plan, backend, conditioning)
    return time.perf_counter() - started


def backend_of(engine: Engine, denoiser: Denoiser, plan: SamplerPlan, num: int, length: int) -> TorchBackend:
    """Return a backend that draws its first noise by numpy, and all else on the device."""
    draw = noise_of([np.random.default_rng(k) for k in range(num)], length, denoiser.config.emb_dim)
    backend = DeviceBackend(denoiser, draw, plan)
    if engine.mode:
        backend.denoise_step = torch.compile(backend.denoise_step, mode=engine.mode)
    return backend


def show_kernels(backend: TorchBackend, plan: SamplerPlan, conditioning: Conditioning) -> None:
    """Print what the GPU did in a draft, the longest first."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        seconds_of(backend, plan, conditioning)
    print(
        profile.key_averages().table(sort_by="self_cuda_time_total", row_limit=40, max_name_column_width=90)
    )


def measure(name: str, model: str, conditioning: Conditioning, device: str, kernels: bool) -> None:
    """Time the drafts of one engine and record them, or show its kernels."""
    engine, denoiser = ENGINES[name], make_denoiser(model, device)
    for part in (*denoiser.transformer.modules(), denoiser.head):
        if isinstance(part, nn.Linear):
            part.to(torch.bfloat16)  # read once a step: at batch 1 that is what a step waits for
    if engine.float8:
        use_float8(denoiser)
    num, length = conditioning.ids.shape
    shortest = plain_plan(*SAMPLERS[-1])
    backend = backend_of(engine, denoiser, shortest, num, length)
    with denoiser.cached_readout():
        started = time.perf_counter()
        for _ in range(2):
            seconds_of(backend, shortest, conditioning)  # compiled and warm
        first = time.perf_counter() - started
        if kernels:
            return show_kernels(backend, shortest, conditioning)
        for sampler, steps in reversed(SAMPLERS):
            plan = plain_plan(sampler, steps)
            runs = 1 if engine.mode is None and steps > 100 else RUNS
            seconds = [seconds_of(backend, plan, conditioning) for _ in range(runs)]
            record(
                "GPU sampling", engine=name, model=model, batch=num, length=length,
                sampler=f"{sampler}_{steps}",
                seconds=spread(seconds, 4), step_milliseconds=round(1e3 * min(seconds) / steps, 3),
                seconds_to_warm=round(first, 1),
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
    conditioning = Conditioning.nothing(arguments.batch, arguments.length)
    for name in arguments.engines:
        with torch.no_grad(), torch.autocast(arguments.device, torch.bfloat16):
            measure(name, arguments.model, conditioning, arguments.device, arguments.kernels)
        torch._dynamo.reset()


if __name__ == "__main__":
    main()
