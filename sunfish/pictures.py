"""Pictures as PNG in the house's colours, and tables as CSV."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

INK, ACCENT, PALE = "#1b3a4b", "#e4572e", "#9fb8c6"


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Iterable[float | str]]) -> None:
    """Write a table."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def picture(path: Path, draw: Callable[[Any], None], title: str) -> None:
    """Draw one picture and write it as PNG."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    draw(axes)
    axes.set_title(title, loc="left", color=INK)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)
