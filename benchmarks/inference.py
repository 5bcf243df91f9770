"""One sampling step by torch (eager, compiled) and ONNX Runtime (fp32, int8), side by side in one run.

python -m benchmarks.inference --model tiny --shapes 1x64 8x64 1x512      # batch x length; none: bytes of the
files alone

Every engine runs in a process of its own, so that no thread pool disturbs another's; they take turns, a draft
each. Weights are drawn, not trained: what they hold does not change how long a product takes."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.engines import THREADS
from benchmarks.record import composed, record, spread
from sunfish.model.denoiser import Denoiser
from sunfish.training.cost import forward_operations

ENGINES = ("torch eager", "torch compile", "onnxruntime fp32", "onnxruntime int8")
VOCABULARY = {"tiny": 512, "mini": 567}  # GPT-2's for all others
STEPS_OF_A_SAMPLE = 50


def make_denoiser(model: str, device: str = "cpu") -> Denoiser:
    """Return a model with every weight drawn, those too that start at zero."""
    with torch.device(device):
        denoiser = Denoiser(composed(f"model={model}")["model"], VOCABULARY.get(model, 50_257))
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in denoiser.named_parameters():
        deviation = 1.0 if name == "embedding.weight" else parameter.shape[-1] ** -0.5
        parameter.data.normal_(float(name.endswith("scale")), deviation, generator=generator)
    return denoiser.eval().requires_grad_(False)


def export(model: str, folder: Path) -> None:
    """Write the step graph, and in 8 bits, as the export stage does, and record their bytes, weights
    included.
    """
    import dataclasses

    import onnx_ir as ir

    from sunfish.export.graph import export_step
    from sunfish.export.quantize import quantize
    from sunfish.export.weights import save_graphs

    save_graphs(folder, {"step": export_step(make_denoiser(model), 20)}, "step.onnx_data")
    kinds = dataclasses.asdict(composed(f"model={model}")["export"].int8)
    save_graphs(
        folder,
        {"step_quantized": quantize(ir.load(folder / "step.onnx"), **kinds)},
        "step_quantized.onnx_data",
    )
    fp32, int8 = (
        sum(file.stat().st_size for file in folder.glob(f"{name}.onnx*"))
        for name in ("step", "step_quantized")
    )
    record("graph files", model=model, bytes={"fp32": fp32, "int8": int8}, int8_of_fp32=round(int8 / fp32, 3))


class Worker:
    """An engine in a process of its own."""

    def __init__(self, engine: str, arguments: argparse.Namespace, shape: str) -> None:
        sizes = [
            *shape.split("x"),
            str(composed(f"model={arguments.model}")["model"].emb_dim),
            str(arguments.steps),
        ]
        command = [
            sys.executable,
            "-m",
            "benchmarks.engines",
            engine,
            arguments.model,
            str(arguments.folder),
            *sizes,
        ]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.values: list[float] = []
        self.kib = 0
        self.read("ready")

    def read(self, expected: str = "") -> list[str]:
        while line := self.process.stdout.readline() if self.process.stdout else "":
            if not expected or line.startswith(expected):
                return line.split()
        raise SystemExit(f"{self.process.args} ended")

    def run(self) -> None:
        assert self.process.stdin is not None
        print(file=self.process.stdin, flush=True)
        value, kib = self.read()
        self.values.append(float(value))
        self.kib = int(kib)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(arguments: argparse.Namespace, shape: str) -> None:
    """Let all engines draft in turn, and record medians and ratios."""
    workers = {name: Worker(name, arguments, shape) for name in ("rate", *arguments.engines)}
    for _ in range(arguments.rounds):
        for worker in workers.values():
            worker.run()
    for worker in workers.values():
        worker.close()
    batch, length = map(int, shape.split("x"))
    config, vocab_size = (
        composed(f"model={arguments.model}")["model"],
        VOCABULARY.get(arguments.model, 50_257),
    )
    operations = (
        batch * length * (forward_operations(config, vocab_size, length) + 2 * vocab_size * config.emb_dim)
    )
    rate = workers.pop("rate").values
    base = workers["torch eager"].values if "torch eager" in workers else None
    for name, worker in workers.items():
        steps = [value / arguments.steps for value in worker.values]
        beside = (
            {}
            if base is None
            else {"times_eager": spread([b / v for b, v in zip(base, worker.values, strict=True)], 2)}
        )
        record(
            "sampling step", engine=name, model=arguments.model, batch=batch, length=length,
            steps_measured=arguments.steps,
            step_milliseconds=spread([1e3 * s for s in steps], 3),
            sample_seconds=round(statistics.median(steps) * STEPS_OF_A_SAMPLE / batch, 4), **beside,
            share_of_matmul_rate=spread([operations / s / r for s, r in zip(steps, rate, strict=True)], 2),
            matmul_gflops=round(statistics.median(rate) / 1e9), memory_mib=worker.kib // 1024,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--shapes", nargs="*", default=["1x64", "8x64", "1x512"], help="batch x length")
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument(
        "--steps", type=int, default=STEPS_OF_A_SAMPLE, help="of a draft; a sample is said to have 50"
    )
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        arguments.folder = Path(folder)
        export(arguments.model, arguments.folder)
        for shape in arguments.shapes:
            measure(arguments, shape)


if __name__ == "__main__":
    main()
