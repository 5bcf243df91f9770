"""`launch`: the machine a run happens on. Not a parameter of any stage: the same experiment on any machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sunfish.problems import require


@dataclass(frozen=True, kw_only=True)
class Section:
    """Devices and precision; `auto` looks at the hardware."""

    accelerator: Literal["auto", "cpu", "cuda"]
    devices: int
    precision: Literal["auto", "32-true", "bf16-mixed"]
    num_threads: int | None  # of the CPU; null: all cores

    def __post_init__(self) -> None:
        require(self.devices > 0, "devices", "must be at least 1")
        require(self.num_threads is None or self.num_threads > 0, "num_threads", "must be at least 1, or null for all cores")
