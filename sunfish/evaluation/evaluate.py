"""Evaluate a denoiser: the bound, the text it writes, the gaps it fills, its speed; numbers, pictures,
samples, a report.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sunfish.config.schema.data import DataConfig
from sunfish.config.schema.evaluate import EvaluateConfig
from sunfish.config.schema.tracking import TrackingConfig
from sunfish.evaluation.context import EvalContext, Numbers
from sunfish.evaluation.held_out import measure_bound
from sunfish.evaluation.infilling import measure_infilling
from sunfish.evaluation.plots import read_curve, write_plots
from sunfish.evaluation.report import write_report
from sunfish.evaluation.speed import measure_speed, time_to_quality
from sunfish.evaluation.trajectory import follow
from sunfish.files import write_json, write_text
from sunfish.tracking import Tracker


@dataclass(frozen=True)
class Places:
    """Where an evaluation reads and writes."""

    denoiser: Path
    shards: Path
    curve: Path
    metrics: Path
    plots: Path
    samples: Path
    report: Path


def evaluate(data: DataConfig, section: EvaluateConfig, tracking: TrackingConfig, places: Places) -> None:
    """Measure and write everything."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    subject = EvalContext.read(places.denoiser, places.shards, data, section, device).with_judge()
    stored = subject.stored
    bound, bound_numbers = measure_bound(subject)
    texts = subject.write_texts(section.num_samples, seed=1)
    judged = subject.judge(texts, near=True)
    steps = measure_over(subject, judged, "num_steps", section.frontier_steps)
    windows = measure_over(*_in_turn(subject, judged), "window_steps", section.frontier_windows)
    metrics: dict[str, Any] = {
        "bound": bound_numbers,
        **({"bound_one_step": measure_bound(subject, num_levels=0)[1]} if section.window_steps == 1 else {}),
        "samples": {**judged, "count": len(texts.words)},
        "real_text": subject.judge(subject.real_texts(subject.num_real), near=True),
        "infilling": measure_infilling(subject),
        "how": _how(section),
        "frontier": steps,
        "windows": windows,
        "temperatures": measure_over(subject, judged, "temperature", section.frontier_temperatures),
        "time_to_quality": {
            "num_steps": time_to_quality(steps, judged),
            "window_steps": time_to_quality(windows, judged),
        },
        "speed": measure_speed(stored.denoiser, stored.law, stored.lengths.longest, section.speed_runs),
    }
    trajectory = follow(
        stored.denoiser,
        subject.table(),
        stored.lengths.usual,
        np.random.default_rng(section.seed),
        section.temperature,
    )
    write_json(places.metrics, metrics)
    write_plots(
        places.plots,
        read_curve(places.curve),
        bound,
        metrics,
        trajectory,
        subject.words_of(trajectory.ids[-1]),
    )
    write_text(places.samples, "\n\n".join(texts.words[: section.shown_samples]) + "\n")
    write_report(places.report, subject, data, metrics, places.plots, trajectory, texts)
    tracker = Tracker(tracking, {"model_sha256": stored.digest()})
    tracker.log_metrics(
        {f"evaluate.{k}.{n}": v for k in ("bound", "samples", "infilling") for n, v in metrics[k].items()}
    )
    for path in (places.plots, places.samples, places.report):
        tracker.log_artifacts(path, "evaluate")
    tracker.close()


def _how(section: EvaluateConfig) -> dict[str, Any]:
    names = (
        "sampler",
        "num_steps",
        "eta",
        "temperature",
        "floor",
        "settle",
        "order",
        "window_steps",
        "bound_together",
        "judge",
        "seed",
    )
    return {**{name: getattr(section, name) for name in names}, "weights": "ema"}


def _in_turn(subject: EvalContext, judged: Numbers) -> tuple[EvalContext, Numbers | None]:
    """Return the subject with a sampler that has windows, and what is known of its texts already."""
    return (
        (subject, judged)
        if subject.section.sampler != "picard"
        else (subject.told(sampler="ancestral"), None)
    )


def measure_over(
    subject: EvalContext, judged: Numbers | None, name: str, values: Iterable[float]
) -> dict[str, Numbers]:
    """Return quality by one of the section's values, rising; at the configured one it was `judged`
    already.
    """
    section = subject.section
    rows = {} if judged is None else {getattr(section, name): judged}
    for value in {*values} - {*rows}:
        there = subject.told(**{name: value})
        rows[value] = there.judge(there.write_texts(section.frontier_samples, seed=round(1e6 * value)))
    return {f"{value:g}": rows[value] for value in sorted(rows)}
