"""`launch`: the machine a run happens on; not a parameter of any stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sunfish.errors import require


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """What sbatch is told about a task's job."""

    partition: str
    time: str  # limit of one task, as Slurm writes it
    mem_per_cpu_gb: int
    qos: str

    def __post_init__(self) -> None:
        require(self.mem_per_cpu_gb > 0, "mem_per_cpu_gb", "must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """Who does the shard stage's tasks; none of it changes a byte of what comes out."""

    executor: Literal["local", "slurm", "ray"]
    workers: int | None  # tasks at once; null: one a core here, no limit on a cluster
    slurm: Slurm

    def __post_init__(self) -> None:
        require(self.workers is None or self.workers > 0, "workers", "must be at least 1, or null")


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """Devices and precision; `auto` looks at the hardware."""

    accelerator: Literal["auto", "cpu", "cuda"]
    devices: (
        int | None
    )  # processes on this machine; null: one a GPU, or one on CPUs. torchrun and srun say it themselves
    strategy: Literal["auto", "single", "ddp", "fsdp", "hybrid"]
    compile: bool | None  # each block by torch.compile; null: on GPUs. On CPUs it needs a C++ compiler
    async_checkpoints: bool | None  # written while the training goes on; null: on GPUs
    precision: Literal["auto", "32-true", "bf16-mixed"]
    num_threads: int | None  # of the CPU; null: all cores
    sharding: Sharding

    def __post_init__(self) -> None:
        require(
            self.devices is None or self.devices > 0, "devices", "must be at least 1, or null for all GPUs"
        )
        require(
            self.num_threads is None or self.num_threads > 0,
            "num_threads",
            "must be at least 1, or null for all cores",
        )
