"""Pictures of an evaluation as PNG, and the same numbers as CSV for `dvc plots`."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sunfish.evaluation.bound import Bound
from sunfish.evaluation.trajectory import Frame
from sunfish.files import replacing
from sunfish.pictures import ACCENT, INK, PALE, canvas, draw_text, picture, save, write_csv

GREY = "#5d7380"
MAX_TOKENS, MAX_WIDTH, LABEL_WIDTH = 32, 12, 20  # tokens, and characters, in the picture of a trajectory
INCHES_PER_CHARACTER, INCHES_PER_FRAME = 0.075, 0.21
FAINTEST = 0.12  # ink of a token that the model is not sure of at all

Curve = list[dict[str, float]]
Point = tuple[str, float, float]  # kind, calls, quality


def read_curve(path: Path) -> Curve:
    """Return the logged steps of a training."""
    with path.open(encoding="utf-8") as file:
        return [{key: float(value) for key, value in line.items()} for line in csv.DictReader(file)]


def write_plots(path: Path, curve: Curve, bound: Bound, results: dict[str, Any], frames: list[Frame]) -> None:
    """Write all pictures and tables, whole or not at all."""
    key, points = quality_points(results)
    levels = zip(bound.level_logsnr, bound.level_ce, bound.level_density, strict=True)
    with replacing(path) as folder:
        folder.mkdir()
        draw_loss_curve(folder / "loss_curve.png", curve)
        write_csv(folder / "loss_curve.csv", list(curve[0]) if curve else [], (row.values() for row in curve))
        draw_loss_by_level(folder / "loss_by_level.png", bound)
        write_csv(folder / "loss_by_level.csv", ("logsnr", "cross_entropy_nats", "schedule_density"), levels)
        draw_quality(folder / "quality_by_calls.png", key, points, results["real_text"])
        write_csv(folder / "quality_by_calls.csv", ("sampler", "calls", key), points)
        draw_trajectory(folder / "trajectory.png", frames)
        write_csv(folder / "trajectory.csv", TRAJECTORY_COLUMNS, trajectory_rows(frames))


def quality_points(results: dict[str, Any]) -> tuple[str, list[Point]]:
    """Return which number stands for quality, and it against calls, for plain and checked samplers."""
    keys = ("stories_consistent", "grids_valid", "judged_perplexity", "distinct_2")
    key = next(key for key in keys if key in results["draft"])
    tables = {"plain": results["plain_by_steps"], "checked": results["checked_by_steps"]}
    rows = [(kind, row) for kind, table in tables.items() for row in table.values()]
    return key, [(kind, row["calls_per_text"], row[key]) for kind, row in rows]


def draw_loss_curve(path: Path, curve: Curve) -> None:
    """Draw the training loss, raw and smoothed."""
    steps, loss = (np.array([line[key] for line in curve]) for key in ("step", "loss"))

    def draw(axes: Any) -> None:
        axes.plot(steps, loss, color=PALE, linewidth=1, label="logged steps")
        width = max(1, len(loss) // 40)
        smooth = np.convolve(loss, np.ones(width) / width, mode="valid")
        axes.plot(steps[width - 1 :], smooth, color=INK, linewidth=2, label=f"mean of {width}")
        axes.set(xlabel="step", ylabel="training loss", yscale="log")
        axes.legend(frameon=False)

    picture(path, draw, "Training loss at the drawn noise levels")


def draw_loss_by_level(path: Path, bound: Bound) -> None:
    """Draw the held-out cross-entropy over logsnr, with the noise schedule's density behind it."""

    def draw(axes: Any) -> None:
        behind = axes.twinx()
        behind.fill_between(bound.level_logsnr, bound.level_density, color=PALE, alpha=0.5, linewidth=0)
        behind.set_ylabel("noise schedule: share of steps per nat", color=GREY)
        behind.set_ylim(0)
        behind.spines[["top"]].set_visible(False)
        axes.plot(bound.level_logsnr, bound.level_ce, color=ACCENT, linewidth=2)
        axes.set_xlabel("logsnr (nats): noise on the left, data on the right")
        axes.set_ylabel("cross-entropy (nats per token)")
        axes.set_zorder(behind.get_zorder() + 1)
        axes.patch.set_visible(False)

    picture(path, draw, "Held-out loss by noise level")


def draw_quality(path: Path, key: str, points: list[Point], real: dict[str, float]) -> None:
    """Draw quality against calls of the network, for drafts alone and for checked texts."""

    def draw(axes: Any) -> None:
        for kind, color in (("plain", INK), ("checked", ACCENT)):
            line = sorted((calls, value) for of, calls, value in points if of == kind)
            if line:
                axes.plot(*zip(*line, strict=True), "o-", color=color, label=kind)
        axes.axhline(real[key], color=PALE, linestyle="--", label="real held-out text")
        axes.set(xlabel="calls of the network per text", ylabel=key.replace("_", " "), xscale="log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda value, _: "")
        if key != "judged_perplexity":
            axes.set_ylim(-0.02, 1.05)
        axes.legend(frameon=False)

    picture(path, draw, "Quality against calls")


def draw_trajectory(path: Path, frames: list[Frame]) -> None:
    """Draw one text row by row, call by call; ink is certainty, a struck token is replaced by a check."""
    num = min(MAX_TOKENS, len(frames[0].tokens))
    widths = [min(MAX_WIDTH, max(len(frame.tokens[k]) for frame in frames)) + 2 for k in range(num)]
    starts = np.cumsum([LABEL_WIDTH, *widths])
    size = (INCHES_PER_CHARACTER * starts[-1], INCHES_PER_FRAME * (len(frames) + 3))
    figure, axes = canvas(size, "One text coming out of the noise")
    axes.set(xlim=(0, starts[-1]), ylim=(len(frames) + 0.5, -1))
    axes.axis("off")
    for row, frame in enumerate(frames):
        following = frames[row + 1].struck if row + 1 < len(frames) else []
        draw_frame(axes, row, frame, starts[:-1], following)
    save(figure, path)


def draw_frame(axes: Any, row: int, frame: Frame, starts: np.ndarray, struck_next: list[str]) -> None:
    """Write one row: its label, and its tokens; those that the next row's check strikes are crossed out."""
    draw_text(axes, (0, row), label_of(frame), color=ACCENT if frame.kind == "check" else GREY)
    for k, start in enumerate(starts.tolist()):
        token, corrected = frame.tokens[k][:MAX_WIDTH], bool(frame.struck[k])
        ink = FAINTEST + (1 - FAINTEST) * float(frame.confidence[k])
        draw_text(axes, (start, row), token, ACCENT if corrected else INK, ink, bold=corrected)
        if struck_next and struck_next[k]:
            axes.plot((start, start + 0.9 * len(token)), (row, row), color=ACCENT, linewidth=1.2)


def label_of(frame: Frame) -> str:
    """Return what stands before a row: the draft and step, or the check and what it struck."""
    if frame.kind == "denoise":
        return f"draft {frame.round + 1}, {frame.step + 1}"
    struck = next(filter(None, frame.struck), "")
    return f"check: not {struck}"[: LABEL_WIDTH - 1] if struck else "check: passed"


TRAJECTORY_COLUMNS = ("kind", "draft", "step", "position", "token", "confidence", "known", "struck")


def trajectory_rows(frames: list[Frame]) -> Iterator[tuple[Any, ...]]:
    """Yield one row per frame and position."""
    for frame in frames:
        for position, token in enumerate(frame.tokens):
            sure, known = round(float(frame.confidence[position]), 4), int(frame.known[position])
            place = (frame.kind, frame.round, frame.step, position)
            yield (*place, token, sure, known, frame.struck[position])
