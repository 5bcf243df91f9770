"""One engine in a process of its own: it walks whenever it reads a line, and answers with seconds and memory.
See inference.py.

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

from sunfish.sampling.solvers import Given, ddim, finish
from sunfish.diffusion.schedule import uniform

THREADS = 2
LAW = uniform(-11.0, 4.0, 2)


def walker(
    engine: str, model: str, folder: Path, batch: int, length: int, emb: int, steps: int
) -> Callable[[], None]:
    """Return one walk of `steps` rows."""
    given, table, place = Given.nothing(batch, length), ddim(LAW, steps), np.zeros((batch, length), np.int64)
    if engine.startswith("torch"):
        import torch

        from benchmarks.inference import make_denoiser
        from sunfish.sampling.torch_backend import TorchNetwork

        torch.set_num_threads(THREADS)
        denoiser = make_denoiser(model)
        network: Any = TorchNetwork(denoiser, np.random.default_rng(0))
        if engine == "torch compile":
            network.moves = {kind: torch.compile(move) for kind, move in network.moves.items()}

        def walk_torch() -> None:
            with torch.no_grad(), denoiser.held():
                finish(table, network, given, place)

        return walk_torch
    rng = np.random.default_rng(0)
    noise = lambda: rng.standard_normal((batch, length, emb), dtype=np.float32)  # noqa: E731
    if engine == "openvino":
        step = openvino_step(folder / "step.onnx")
        still = {
            "chance": np.zeros((batch, length), np.float32),
            "table": table.rows().astype(np.float32),
            "place": place,
        }
        still |= {"temperature": np.ones(batch, np.float32)}

        def walk_openvino() -> None:
            x = noise()
            state = {
                "x": x,
                "x_0_prev": np.zeros_like(x),
                "ids": given.ids,
                "known": given.known,
                "age": place,
            }
            for left in range(steps, 0, -1):
                state = step({**state, **still, "noise": x, "left": np.full(batch, left)})

        return walk_openvino
    from sunfish.sampling.onnx_backend import OnnxNetwork, open_session

    session = open_session(
        folder / ("step.onnx" if engine.endswith("fp32") else "step_quantized.onnx"), THREADS
    )
    onnx_network = OnnxNetwork(session, noise, lambda: rng.random((batch, length), dtype=np.float32))

    def walk_onnxruntime() -> None:
        finish(table, onnx_network, given, place)

    return walk_onnxruntime


def openvino_step(path: Path) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Return the step graph behind OpenVINO, in fp32, for one answer at a time."""
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": THREADS,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()
    told = {"x": "x_next", "x_0_prev": "x_0_hat", "ids": "ids_next", "known": "known_next", "age": "age_next"}

    def step(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = request.infer(inputs)
        return {name: outputs[output] for name, output in told.items()}

    return step


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
    parser.add_argument("sizes", type=int, nargs=4, help="batch, length, embedding, steps of a walk")
    arguments = parser.parse_args()
    if arguments.engine == "rate":
        import torch

        from sunfish.training.cost import matmul_rate

        torch.set_num_threads(THREADS)
        call: Callable[[], Any] = lambda: matmul_rate(repeats=20)  # noqa: E731
    else:
        walk = walker(arguments.engine, arguments.model, arguments.folder, *arguments.sizes)

        def call() -> float:
            started = time.perf_counter()
            walk()
            return time.perf_counter() - started

    call()  # compiled, allocated, warm
    print("ready", flush=True)
    for _ in sys.stdin:
        print(call(), peak_kib(), flush=True)


if __name__ == "__main__":
    main()
