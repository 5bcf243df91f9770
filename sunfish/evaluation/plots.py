"""Pictures of an evaluation, as PNG, and the same numbers as CSV for `dvc plots`."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from sunfish.evaluation.bound import Bound
from sunfish.evaluation.trajectory import Trajectory
from sunfish.files import replacing
from sunfish.pictures import ACCENT, INK, PALE, picture, write_csv

STORY_SHARES, TEXT_SHARES = ("sentences_valid", "stories_consistent"), ("distinct_2", "rep_2", "unique")

Curve = list[dict[str, float]]


def read_curve(path: Path) -> Curve:
    """Return the logged steps of a training."""
    with path.open(encoding="utf-8") as file:
        return [{key: float(value) for key, value in line.items()} for line in csv.DictReader(file)]


def write_plots(
    path: Path, curve: Curve, bound: Bound, metrics: dict[str, Any], trajectory: Trajectory, words: list[str]
) -> None:
    """Write all pictures and tables, whole or not at all."""
    keys = STORY_SHARES if "stories_consistent" in metrics["samples"] else TEXT_SHARES
    by_steps, by_window = (
        [{"at": float(at), **row} for at, row in metrics[name].items()] for name in ("frontier", "windows")
    )
    with replacing(path) as folder:
        folder.mkdir()
        draw_loss_curve(folder / "loss_curve.png", curve)
        draw_loss_by_level(folder / "loss_by_level.png", bound)
        draw_quality_by(
            folder / "quality_by_steps.png",
            by_steps,
            keys,
            "steps a text may take",
            "Quality by sampling steps",
        )
        draw_quality_by(
            folder / "quality_by_window.png",
            by_window,
            keys,
            "steps that a word takes",
            "Quality by words at once",
        )
        draw_quality_by_entropy(folder / "quality_by_entropy.png", metrics, keys[1])
        draw_trajectory(folder / "trajectory.png", trajectory, words)
        levels = zip(bound.level_logsnr, bound.level_ce, bound.level_density, strict=True)
        write_csv(folder / "loss_by_level.csv", ("logsnr", "cross_entropy_nats", "law_density"), levels)
        write_csv(
            folder / "quality_by_steps.csv",
            ("steps", *keys),
            ([row[key] for key in ("at", *keys)] for row in by_steps),
        )


def draw_loss_curve(path: Path, curve: Curve) -> None:
    """Draw the training loss, raw and smoothed."""
    steps, loss = np.array([line["step"] for line in curve]), np.array([line["loss"] for line in curve])

    def draw(axes: Any) -> None:
        axes.plot(steps, loss, color=PALE, linewidth=1, label="logged steps")
        width = max(1, len(loss) // 40)
        smooth = np.convolve(loss, np.ones(width) / width, mode="valid")
        axes.plot(steps[width - 1 :], smooth, color=INK, linewidth=2, label=f"mean of {width}")
        axes.set(xlabel="step", ylabel="training loss", yscale="log")
        axes.legend(frameon=False)

    picture(path, draw, "Training loss at the drawn noise levels")


def draw_loss_by_level(path: Path, bound: Bound) -> None:
    """Draw the held-out cross-entropy over logsnr, with the noise law's density behind it."""

    def draw(axes: Any) -> None:
        behind = axes.twinx()
        behind.fill_between(bound.level_logsnr, bound.level_density, color=PALE, alpha=0.5, linewidth=0)
        behind.set_ylabel("noise law: share of steps per nat", color=PALE)
        behind.set_ylim(0)
        behind.spines[["top"]].set_visible(False)
        axes.plot(bound.level_logsnr, bound.level_ce, color=ACCENT, linewidth=2)
        axes.set(
            xlabel="logsnr (nats): noise on the left, data on the right",
            ylabel="cross-entropy (nats per token)",
        )
        axes.set_zorder(behind.get_zorder() + 1)
        axes.patch.set_visible(False)

    picture(path, draw, "Held-out loss by noise level")


def draw_quality_by(
    path: Path, rows: list[dict[str, float]], keys: tuple[str, ...], label: str, title: str
) -> None:
    """Draw quality against what the sampler was told."""

    def draw(axes: Any) -> None:
        for key, color in zip(keys, (ACCENT, INK, PALE), strict=False):
            axes.plot(
                [row["at"] for row in rows],
                [row[key] for row in rows],
                "o-",
                color=color,
                label=key.replace("_", " "),
            )
        axes.set(xlabel=label, ylabel="share", xscale="log", ylim=(-0.02, 1.02))
        ticks = [int(row["at"]) for row in rows]
        axes.set_xticks(ticks, [str(n) for n in ticks])
        axes.minorticks_off()
        axes.legend(frameon=False)

    picture(path, draw, title)


def draw_quality_by_entropy(path: Path, metrics: dict[str, Any], key: str) -> None:
    """Draw quality against variety, by temperature, with real text as a star: only points of like entropy
    compare.
    """

    def draw(axes: Any) -> None:
        heats = metrics["temperatures"]
        points = [(row["entropy_corpus_nats"], row[key]) for row in heats.values()]
        axes.plot(*zip(*points, strict=True), "o-", color=ACCENT, label="temperatures")
        for heat, point in zip(heats, points, strict=True):
            axes.annotate(
                f"T {heat}", point, textcoords="offset points", xytext=(0, -16), ha="center", color=INK
            )
        real = metrics["real_text"]
        axes.plot(
            real["entropy_corpus_nats"], real[key], "*", markersize=14, color=INK, label="real held-out text"
        )
        axes.set(
            xlabel="entropy of tokens over all texts (nats)", ylabel=key.replace("_", " "), ylim=(-0.02, 1.05)
        )
        axes.legend(frameon=False)

    picture(path, draw, "Quality by variety")


def draw_trajectory(path: Path, trajectory: Trajectory, words: list[str]) -> None:
    """Draw how sure each position is at each step of one text; `words` stand below, as they came out."""

    def draw(axes: Any) -> None:
        axes.grid(visible=False)
        axes.spines[["left", "bottom"]].set_visible(False)
        image = axes.imshow(
            trajectory.probability, aspect="auto", cmap="YlGnBu", vmin=0, vmax=1, interpolation="nearest"
        )
        axes.set(ylabel="step, from noise to text")
        axes.set_xticks(range(len(words)), words, rotation=90, fontsize=max(3, 8 - len(words) // 16))
        axes.figure.colorbar(image, ax=axes, label="probability of the likeliest token", pad=0.02)

    picture(path, draw, "One text coming out of the noise")
