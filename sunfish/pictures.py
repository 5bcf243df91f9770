"""Pictures as PNG in the project's colours, and tables as CSV."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from sunfish.printable import printable

INK, ACCENT, PALE = "#1b3a4b", "#e4572e", "#9fb8c6"
CAREFUL = str.maketrans({"$": r"\$"})  # matplotlib reads formulas between dollar signs


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Iterable[float | str]]) -> None:
    """Write a table."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def picture(path: Path, draw: Callable[[Any], None], title: str) -> None:
    """Draw one picture and write it as PNG."""
    figure, axes = canvas((7, 4), title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    draw(axes)
    save(figure, path)


def canvas(inches: tuple[float, float], title: str) -> tuple[Any, Any]:
    """Return an empty figure and its axes."""
    figure, axes = plt.subplots(figsize=inches, layout="constrained")
    axes.set_title(title, loc="left", color=INK)
    return figure, axes


def save(figure: Any, path: Path) -> None:
    """Write a figure as PNG, the same bytes for the same figure."""
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


def draw_text(
    axes: Any, at: tuple[float, float], text: str, color: str = INK, alpha: float = 1.0, bold: bool = False
) -> None:
    """Write text at a point, in letters of one width; control characters are shown as escapes."""
    axes.text(
        *at, printable(text).translate(CAREFUL), color=color, alpha=alpha, family="monospace", fontsize=8,
        fontweight="bold" if bold else "normal", va="center",
    )  # fmt: skip
