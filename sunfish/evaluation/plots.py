"""Pictures of an evaluation, as PNG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from sunfish.evaluation.bound import Bound

INK, ACCENT, PALE = "#1b3a4b", "#e4572e", "#9fb8c6"


def _picture(path: Path, draw: Callable[[Any], None], title: str) -> None:
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    draw(axes)
    axes.set_title(title, loc="left", color=INK)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


def draw_loss_curve(path: Path, curve: list[dict[str, float]]) -> None:
    """Draw the training loss, raw and smoothed, and the learning rate below it."""
    steps, loss = np.array([line["step"] for line in curve]), np.array([line["loss"] for line in curve])

    def draw(axes: Any) -> None:
        axes.plot(steps, loss, color=PALE, linewidth=1, label="logged steps")
        width = max(1, len(loss) // 40)
        smooth = np.convolve(loss, np.ones(width) / width, mode="valid")
        axes.plot(steps[width - 1 :], smooth, color=INK, linewidth=2, label=f"mean of {width}")
        axes.set(xlabel="step", ylabel="training loss", yscale="log")
        axes.legend(frameon=False)

    _picture(path, draw, "Training loss at the drawn noise levels")


def draw_loss_by_level(path: Path, bound: Bound) -> None:
    """Draw the held-out cross-entropy over logsnr, with the noise law's density behind it."""

    def draw(axes: Any) -> None:
        behind = axes.twinx()
        behind.fill_between(bound.level_logsnr, bound.level_density, color=PALE, alpha=0.5, linewidth=0)
        behind.set_ylabel("noise law: share of steps per nat", color=PALE)
        behind.set_ylim(0)
        behind.spines[["top"]].set_visible(False)
        axes.plot(bound.level_logsnr, bound.level_ce, color=ACCENT, linewidth=2)
        axes.set(xlabel="logsnr (nats): noise on the left, data on the right", ylabel="cross-entropy (nats per token)")
        axes.set_zorder(behind.get_zorder() + 1)
        axes.patch.set_visible(False)

    _picture(path, draw, "Held-out loss by noise level")


def draw_quality_by_steps(path: Path, frontier: list[dict[str, float]], keys: tuple[str, ...]) -> None:
    """Draw quality against the number of sampling steps."""

    def draw(axes: Any) -> None:
        for key, color in zip(keys, (ACCENT, INK, PALE), strict=False):
            axes.plot([row["steps"] for row in frontier], [row[key] for row in frontier], "o-", color=color, label=key.replace("_", " "))
        axes.set(xlabel="denoiser calls per text", ylabel="share", xscale="log", ylim=(-0.02, 1.02))
        steps = sorted({int(row["steps"]) for row in frontier})
        axes.set_xticks(steps, [str(n) for n in steps])
        axes.minorticks_off()
        axes.legend(frameon=False)

    _picture(path, draw, "Quality by sampling steps")
