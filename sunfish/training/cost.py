"""What a step costs: floating-point operations, memory, share of the peak; planned, and measured."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass

import torch

from sunfish.config.schema.diffusion import DiffusionConfig
from sunfish.config.schema.model import ModelConfig
from sunfish.model.readout import PIECE

# Dense bf16 operations per second, from NVIDIA's data sheets (SXM; their larger figures count sparsity).
DENSE_BF16 = {"B200": 2250e12, "H200": 989.4e12, "H100": 989.4e12, "A100": 312e12}
DENSE_BF16 |= {"L40S": 362e12, "RTX 4090": 165.2e12}
# Kept per token, layer and unit of width in bf16. A test holds none and full against saved-tensor hooks;
# selective is the sum of the products' outputs.
ACTIVATION_BYTES = {"none": 50, "selective": 24, "full": 4}
LOGIT_BYTES = 10  # per token and entry: bf16 logits, fp32 log-probabilities and their gradient
UPDATE_BYTES = 6  # per entry of a matrix: its direction in fp32, its update in bf16
READOUT_BYTES = 12  # per entry: its weights and their gradient in fp32 and bf16
GIB = 2**30


def forward_operations(model: ModelConfig, vocab_size: int, length: int) -> float:
    """Return the operations of one forward pass per token, without an input posterior: two per weight."""
    attention = 2 * 2 * length * model.width
    block = 2 * 12 * model.width**2 + attention
    head = 2 * model.emb_dim * (model.width + vocab_size) if model.tied_head else 2 * model.width * vocab_size
    prior = 2 * model.emb_dim * vocab_size if model.output_prior and not model.tied_head else 0
    return model.num_layers * block + 2 * model.in_features * model.width + head + prior


def step_operations(
    model: ModelConfig, diffusion: DiffusionConfig, vocab_size: int, rows: int, length: int
) -> float:
    """Return one step's operations: the `passes`, forward and backward, and self-conditioning estimates.

    What checkpointing computes again is not counted: it is no progress."""
    forward = forward_operations(model, vocab_size, length)
    expectation = 2 * vocab_size * model.emb_dim  # of embeddings over logits
    posterior = 2 * expectation if model.input_posterior else 0
    estimate = forward + posterior + expectation
    trained = 3 * (passes(diffusion) * forward + posterior)
    return rows * length * (trained + diffusion.self_conditioning * estimate)


def passes(diffusion: DiffusionConfig) -> int:
    """Return how many passes of a row are differentiated: denoising, and the check if it is learned."""
    return 2 if diffusion.check_weight else 1


def peak_operations(device: torch.device) -> float:
    """Return the hardware's operations per second: a GPU's data sheet, or a measured fp32 product."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known, peak in DENSE_BF16.items():
            if known in name:
                return peak
    return max(matmul_rate(device) for _ in range(5))  # a peak: the rest of the machine is not always quiet


def matmul_rate(device: torch.device = torch.device("cpu"), size: int = 1024, repeats: int = 10) -> float:
    """Return the measured fp32 operations per second of a square product."""
    a, b = torch.randn(2, size, size, device=device).unbind()
    float((a @ b)[0, 0])
    started = time.perf_counter()
    for _ in range(repeats):
        product = a @ b
    float(product[0, 0])  # waits for a GPU
    return 2 * size**3 * repeats / (time.perf_counter() - started)


def memory_gib(device: torch.device) -> float:
    """Return the most memory held so far: on the GPU, or by the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


@dataclass
class Meter:
    """Speed between two readings, over all processes."""

    model: ModelConfig
    diffusion: DiffusionConfig
    vocab_size: int
    device: torch.device
    peak: float  # operations per second, of all devices together

    def __post_init__(self) -> None:
        self.rows = self.tokens = 0
        self.operations, self.since = 0.0, time.monotonic()

    def add(self, rows: int, length: int) -> None:
        """Count a step."""
        self.rows, self.tokens = self.rows + rows, self.tokens + rows * length
        self.operations += step_operations(self.model, self.diffusion, self.vocab_size, rows, length)

    def read(self) -> dict[str, float]:
        """Return rows and tokens per second, the share of the peak, and memory; start anew."""
        seconds = max(time.monotonic() - self.since, 1e-9)
        values = {
            "rows_per_second": self.rows / seconds,
            "tokens_per_second": self.tokens / seconds,
            "share_of_peak": self.operations / seconds / self.peak,
            "memory_gib": memory_gib(self.device),
        }
        self.__post_init__()
        return values


@dataclass(frozen=True)
class Plan:
    """What a training will take, per device unless said otherwise."""

    parameters: int
    processes: int
    shards: int  # processes that a weight is spread over
    steps: int
    batch_rows: int
    micro_rows: int
    row_length: int
    model: ModelConfig
    diffusion: DiffusionConfig
    vocab_size: int
    checkpointing: str

    def memory(self) -> dict[str, float]:
        """Return GiB by what holds it.

        The last four are not held at once. `between passes` are one pass's gradients, in bf16, which wait for
        those of the other, whose activations are left. At the update none of these is there."""
        matrices = self.model.num_layers * 12 * self.model.width**2
        rest = self.parameters - matrices
        whole_gradients = 4 * matrices if self.shards > 1 else 0  # of the matrices that a process owns
        # beside its shards: two whole blocks in bf16 and all else whole; else autocast's bf16 copies
        block = 12 * self.model.width**2
        beside = 2 * 2 * block + 4 * rest if self.shards > 1 else 2 * matrices
        tokens = self.micro_rows * self.row_length * passes(self.diffusion)
        units = self.model.width * self.model.num_layers
        # of one block and pass, computed again on the way back
        again = (ACTIVATION_BYTES["none"] - ACTIVATION_BYTES[self.checkpointing]) * self.model.width
        buckets = 2 if self.processes > 1 and self.shards == 1 else 1  # DDP copies gradients into buckets
        held = {
            "weights": 4 * self.parameters / self.shards + beside,
            "gradients": buckets * 4 * self.parameters / self.shards,
            "averages": 4 * self.parameters / self.shards,
            "optimiser": (4 * matrices + 8 * rest) / self.shards,
            "activations": ACTIVATION_BYTES[self.checkpointing] * tokens * units
            + again * tokens / passes(self.diffusion),
            "logits": self._logit_bytes(tokens),
            "between passes": (passes(self.diffusion) - 1) * 2 * matrices + (2 + 4) * block,
            "update": (whole_gradients + UPDATE_BYTES * matrices) / self.shards,
        }
        return {name: size / GIB for name, size in held.items()}

    def _logit_bytes(self, tokens: float) -> float:
        """Return what logits take (one pass's at work, in pieces, the other's kept), and the readout."""
        logits = tokens / passes(self.diffusion) * self.vocab_size
        kept = 4 * logits * (passes(self.diffusion) - 1) if logits <= PIECE["cuda"] else 0
        width = self.model.emb_dim + (0 if self.model.tied_head else self.model.width)
        return LOGIT_BYTES * min(logits, PIECE["cuda"]) + kept + READOUT_BYTES * self.vocab_size * width

    def most(self) -> float:
        """Return GiB at the worst moment of a step."""
        m = self.memory()
        in_turn = m["activations"] + m["logits"], m["activations"] / 2 + m["between passes"], m["update"]
        return m["weights"] + m["gradients"] + m["averages"] + m["optimiser"] + max(in_turn)

    def checkpoint(self) -> float:
        """Return GiB of a checkpoint, of all processes together: weights, averages and optimiser states."""
        matrices = self.model.num_layers * 12 * self.model.width**2
        return (2 * 4 * self.parameters + 4 * matrices + 8 * (self.parameters - matrices)) / GIB

    def operations(self) -> float:
        """Return the operations of the whole training, on all devices together."""
        sizes = self.vocab_size, self.batch_rows, self.row_length
        return self.steps * step_operations(self.model, self.diffusion, *sizes)

    def hours(self, rate: float) -> float:
        """Return how long it takes at `rate` operations per second and device."""
        return self.operations() / (rate * self.processes) / 3600

    def column(self, rate: float) -> dict[str, str]:
        """Return what depends on the number of devices, for people, at `rate` operations per second each."""
        parts = {f"memory: {name}": f"{size:,.2f}" for name, size in self.memory().items()}
        return {
            "devices": f"{self.processes:,}",
            "shards of a weight": f"{self.shards:,}",
            "rows at once": f"{self.micro_rows:,}",
            **parts,
            "memory in all, GiB": f"{self.most():,.2f}",
            "hours": f"{self.hours(rate):,.2f}",
        }

    def report(self) -> str:
        """Return what does not depend on it, a line each."""
        lines = {
            "parameters": f"{self.parameters:,}",
            "steps": f"{self.steps:,} of {self.batch_rows} rows of {self.row_length}",
            "tokens": f"{self.steps * self.batch_rows * self.row_length:,} at most",
            "operations": f"{self.operations():.3g}",
            "a checkpoint": f"{self.checkpoint():,.2f} GiB",
        }
        return "\n".join(f"{name:22}{value}" for name, value in lines.items())
