"""Evaluate a denoiser: the bound, the text it writes, its speed; numbers, pictures, samples."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sunfish.evaluation.bound import Bound, bound_metrics, variational_bound
from sunfish.evaluation.plots import draw_loss_by_level, draw_loss_curve, draw_quality_by_steps
from sunfish.evaluation.quality import story_metrics, text_metrics
from sunfish.evaluation.speed import measure_speed
from sunfish.files import replacing, write_json
from sunfish.model.inference import sample_free
from sunfish.model.store import StoredDenoiser, read_denoiser
from sunfish.problems import Problem
from sunfish.progress import Progress
from sunfish.sampler import Table, make_table
from sunfish.sections.data import Section as Data
from sunfish.sections.data import Stories
from sunfish.sections.evaluate import Section as Evaluate
from sunfish.sections.tracking import Section as Tracking
from sunfish.text.batches import Rows
from sunfish.text.shards import Shards, sha256
from sunfish.text.stories import entropy_nats
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


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a denoiser, the shards it was trained on, and how its text is to be judged."""

    stored: StoredDenoiser
    shards: Shards
    is_stories: bool
    section: Evaluate

    def write_texts(self, table: Table, num: int, seed: int) -> tuple[list[list[int]], list[str]]:
        """Sample `num` texts; return their ids up to the first end token, and as text."""
        rng, rows = np.random.default_rng((self.section.seed, seed)), list[list[int]]()
        values, counts = np.unique(self.stored.lengths.draw(num, rng), return_counts=True)
        with Progress(f"sample x {len(table)}", num, "texts") as progress:
            for length, total in zip(values.tolist(), counts.tolist(), strict=True):
                for start in range(0, total, self.section.batch_rows):
                    count = min(self.section.batch_rows, total - start)
                    ids = sample_free(self.stored.denoiser, table, count, length, rng, self.section.temperature)
                    rows += [_said(row, self.shards.end_id) for row in ids.tolist()]
                    progress.add(count)
        rows = [rows[k] for k in rng.permutation(num)]
        return rows, [self.shards.tokenizer.decode(row) for row in rows]

    def judge(self, rows: list[list[int]], texts: list[str]) -> dict[str, float]:
        """Return all that can be said of texts."""
        return {**(story_metrics(texts) if self.is_stories else {}), **text_metrics(rows, texts)}


def evaluate(data: Data, section: Evaluate, tracking: Tracking, places: Places) -> None:
    """Measure and write everything."""
    stored, shards = read_denoiser(places.denoiser), Shards(places.shards)
    if sha256(places.denoiser / "tokenizer.json") != shards.manifest["tokenizer_sha256"]:
        raise Problem(f"{places.denoiser}: was trained with another tokenizer than {places.shards}; run the pretrain stage again")
    subject = Subject(stored, shards, isinstance(data.source, Stories), section)
    held_out = Rows(shards, "heldout", data)
    bound, bound_numbers = measure_bound(subject, held_out)
    table = make_table(section.sampler, stored.law, section.num_steps, section.eta, section.settle)
    rows, texts = subject.write_texts(table, section.num_samples, seed=1)
    judged = subject.judge(rows, texts)
    frontier = sorted([*measure_frontier(subject), {"steps": float(section.num_steps), **judged}], key=_steps)
    real_rows = [_said(row, shards.end_id) for row in held_out.read(held_out.first(section.num_samples)).tolist()]
    metrics: dict[str, Any] = {
        "bound": bound_numbers,
        "samples": {**judged, "count": len(texts)},
        "real_text": subject.judge(real_rows, [shards.tokenizer.decode(row) for row in real_rows]),
        "how": _how(section),
        "frontier": {str(int(row["steps"])): {k: v for k, v in row.items() if k != "steps"} for row in frontier},
        "speed": measure_speed(stored.denoiser, stored.law, stored.lengths.longest, section.speed_runs),
    }
    write_json(places.metrics, metrics)
    write_plots(places, bound, frontier, subject.is_stories)
    write_samples(places.samples, texts[: section.shown_samples])
    tracker = Tracker(tracking, {"model_sha256": stored.digest()})
    tracker.log_metrics({f"evaluate.{k}.{n}": v for k in ("bound", "samples") for n, v in metrics[k].items()})
    for path in (places.plots, places.samples):
        tracker.log_artifacts(path, "evaluate")
    tracker.close()


def _steps(row: dict[str, float]) -> float:
    return row["steps"]


def _how(section: Evaluate) -> dict[str, Any]:
    names = ("sampler", "num_steps", "eta", "temperature", "settle", "seed")
    return {**{name: getattr(section, name) for name in names}, "weights": "ema"}


def _said(row: list[int], end_id: int) -> list[int]:
    return row[: row.index(end_id)] if end_id in row else row


def measure_bound(subject: Subject, held_out: Rows) -> tuple[Bound, dict[str, float]]:
    """Return the bound on held-out rows; for stories beside the grammar's exact entropy."""
    section, shards = subject.section, subject.shards
    indices, stored = held_out.first(section.bound_rows), subject.stored
    batches = list(held_out.batches(indices, section.batch_rows))
    rng = np.random.default_rng((section.seed, 0))
    bound = variational_bound(stored.denoiser, stored.law, stored.lengths, batches, section.bound_levels, rng)
    texts = [shards.tokenizer.decode(_said(row, shards.end_id)).encode() for ids in batches for row in ids.tolist()]
    num_tokens = int(held_out.num_tokens[indices].sum())
    numbers = bound_metrics(bound, num_tokens, max(1, sum(map(len, texts))))
    if subject.is_stories:
        numbers["entropy_nats_per_row"] = entropy_nats()
        numbers["bound_over_entropy"] = numbers["nats_per_row"] / entropy_nats()
    return bound, numbers


def measure_frontier(subject: Subject) -> list[dict[str, float]]:
    """Return quality by fewer or more steps than the main number."""
    section, rows = subject.section, []
    for steps in sorted({*section.frontier_steps} - {section.num_steps}):
        table = make_table(section.sampler, subject.stored.law, steps, section.eta, section.settle)
        sampled, texts = subject.write_texts(table, section.frontier_samples, seed=steps)
        rows.append({"steps": float(steps), **subject.judge(sampled, texts)})
    return rows


def write_plots(places: Places, bound: Bound, frontier: list[dict[str, float]], is_stories: bool) -> None:
    """Write the pictures, and the same numbers as CSV for `dvc plots`."""
    with places.curve.open(encoding="utf-8") as file:
        curve = [{key: float(value) for key, value in line.items()} for line in csv.DictReader(file)]
    with replacing(places.plots) as folder:
        folder.mkdir()
        draw_loss_curve(folder / "loss_curve.png", curve)
        draw_loss_by_level(folder / "loss_by_level.png", bound)
        keys = ("sentences_valid", "stories_consistent") if is_stories else ("distinct_2", "rep_2", "unique")
        draw_quality_by_steps(folder / "quality_by_steps.png", frontier, keys)
        levels = zip(bound.level_logsnr, bound.level_ce, bound.level_density, strict=True)
        _write_csv(folder / "loss_by_level.csv", ("logsnr", "cross_entropy_nats", "law_density"), levels)
        columns = ("steps", *keys)
        _write_csv(folder / "quality_by_steps.csv", columns, ([row[key] for key in columns] for row in frontier))


def _write_csv(path: Path, columns: tuple[str, ...], rows: Any) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def write_samples(path: Path, texts: list[str]) -> None:
    """Write texts for reading, as they came: none was chosen."""
    with replacing(path) as temporary:
        temporary.write_text("\n\n".join(texts) + "\n", encoding="utf-8")
