"""`launch`: the machine a run happens on; not a parameter of any stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sunfish.errors import AT_LEAST_1, AT_LEAST_1_OR_NULL, require_each


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """What sbatch is told about a task's job."""

    partition: str
    time: str  # limit of one task, as Slurm writes it
    mem_per_cpu_gb: int
    qos: str

    def __post_init__(self) -> None:
        require_each(self, AT_LEAST_1, "mem_per_cpu_gb")


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """Who does the shard stage's tasks; none of it changes a byte of what comes out."""

    executor: Literal["local", "slurm", "ray"]
    workers: int | None  # tasks at once; null: one a core here, no limit on a cluster
    slurm: Slurm

    def __post_init__(self) -> None:
        require_each(self, AT_LEAST_1_OR_NULL, "workers")


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """Devices and precision; `auto` looks at the hardware."""

    accelerator: Literal["auto", "cpu", "cuda"]
    # processes on this machine; null: one a GPU, or one on CPUs. torchrun and srun say it themselves
    devices: int | None
    strategy: Literal["auto", "single", "ddp", "fsdp", "hybrid"]
    compile: bool | None  # each block by torch.compile; null: on GPUs. On CPUs it needs a C++ compiler
    async_checkpoints: bool | None  # written while the training goes on; null: on GPUs
    precision: Literal["auto", "32-true", "bf16-mixed"]
    num_threads: int | None  # of the CPU; null: all cores
    sharding: Sharding

    def __post_init__(self) -> None:
        require_each(self, AT_LEAST_1_OR_NULL, "devices", "num_threads")
