"""One engine in a process of its own: it drafts whenever it reads a line, and answers with seconds and
memory. See inference.py.

What does not need torch does not load it, so that memory is the engine's own.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sunfish.config.schema.sampler import SamplerConfig
from sunfish.diffusion.schedule import uniform
from sunfish.sampling.loop import Conditioning, SamplerPlan, sample
from sunfish.sampling.noise import noise_of

THREADS = 2
SCHEDULE = uniform(-11.0, 4.0, 2)


def plain_plan(name: str, steps: int) -> SamplerPlan:
    """Return the plan of a founding sampler."""
    config = SamplerConfig(
        name=name, steps=steps, eta=0.0, churn=0.0, temperature=1.0, confidence_threshold=1.0,
        epsilon_cutoff=0.0, check=None,
    )  # fmt: skip
    return SamplerPlan.make(config, SCHEDULE)


def drafter(
    engine: str, model: str, folder: Path, batch: int, length: int, emb: int, steps: int
) -> Callable[[], None]:
    """Return one draft of `steps` calls."""
    nothing, plan = Conditioning.nothing(batch, length), plain_plan("ddim", steps)
    draw = noise_of([np.random.default_rng(k) for k in range(batch)], length, emb)
    if engine.startswith("torch"):
        import torch

        from benchmarks.inference import make_denoiser
        from sunfish.sampling.torch_backend import TorchBackend

        torch.set_num_threads(THREADS)
        denoiser = make_denoiser(model)
        backend: Any = TorchBackend(denoiser, draw, plan)
        if engine == "torch compile":
            backend.denoise_step = torch.compile(backend.denoise_step)

        def draft_torch() -> None:
            with torch.no_grad(), denoiser.cached_readout():
                sample(plan, backend, nothing)

        return draft_torch
    from sunfish.sampling.onnx_backend import OnnxBackend, open_session

    name = "step.onnx" if engine.endswith("fp32") else "step_quantized.onnx"
    session = open_session(folder / name, THREADS)
    onnx_backend = OnnxBackend(lambda _: session, draw, plan)

    def draft_onnxruntime() -> None:
        sample(plan, onnx_backend, nothing)

    return draft_onnxruntime


def peak_kib() -> int:
    """Return this process's most memory; getrusage would count the parent's too, which a new process begins
    as a copy of.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine")
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("sizes", type=int, nargs=4, help="batch, length, embedding, steps of a draft")
    arguments = parser.parse_args()
    if arguments.engine == "rate":
        import torch

        from sunfish.training.cost import matmul_rate

        torch.set_num_threads(THREADS)
        call: Callable[[], Any] = lambda: matmul_rate(repeats=20)  # noqa: E731
    else:
        draft = drafter(arguments.engine, arguments.model, arguments.folder, *arguments.sizes)

        def call() -> float:
            started = time.perf_counter()
            draft()
            return time.perf_counter() - started

    call()  # compiled, allocated, warm
    print("ready", flush=True)
    for _ in sys.stdin:
        print(call(), peak_kib(), flush=True)


if __name__ == "__main__":
    main()
