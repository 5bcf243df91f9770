"""How much memory a batch takes, and whether there is so much: said before it is tried."""

from __future__ import annotations

from pathlib import Path

from sunfish.errors import UserError
from sunfish.runtime.folder import ExportedConfig

MOST_ROWS = 16
USUAL_BYTES = 2**29  # of a batch, unless told otherwise
GIB = 2**30
LOGITS, HIDDEN = 6, 24  # buffers of (pos, vocab) and of (pos, width) that a step holds at once, at most


def row_bytes(config: ExportedConfig, length: int) -> int:
    """Return what a step holds for one row of `length` tokens, at most."""
    model = config.model
    attention = 2 * model.num_heads * length**2
    return 4 * (length * (LOGITS * config.vocab_size + HIDDEN * model.width) + attention)


def rows_at_once(config: ExportedConfig, length: int, num: int, wanted: int | None = None) -> int:
    """Return how many of `num` rows to sample together: as many as wanted, or as take little memory.

    Raises:
        UserError: there is no room for so many.
    """
    each = row_bytes(config, length)
    rows = min(num, wanted or max(1, min(MOST_ROWS, USUAL_BYTES // each)))
    require_room(rows * each, f"{rows} texts of {length} tokens at once")
    return rows


def require_room(size: int, what: str) -> None:
    """Refuse what does not fit into the memory that is free now, where that can be known.

    Raises:
        UserError: it does not.
    """
    free = free_bytes()
    if free is not None and size > free:
        says = f"{what} take about {size / GIB:,.1f} GiB, {free / GIB:,.1f} are free"
        raise UserError(f"{says}; lower --batch, --length or take --precision int8")


def free_bytes() -> int | None:
    """Return the memory that machine and control group still allow; None where nobody says."""
    meminfo, group = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    if not meminfo.is_file():
        return None
    lines = dict(line.split(":") for line in meminfo.read_text().splitlines() if ":" in line)
    free = int(lines["MemAvailable"].split()[0]) * 1024
    limit, used = group / "memory.max", group / "memory.current"
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free
