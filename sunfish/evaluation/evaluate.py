"""Evaluate a denoiser: likelihoods, the texts it writes, the gaps it fills, its speed; with pictures."""

from __future__ import annotations

import dataclasses
import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sunfish.config.convert import flatten
from sunfish.config.schema.data import DataConfig
from sunfish.config.schema.evaluate import EvaluateConfig
from sunfish.config.schema.sampler import SamplerConfig
from sunfish.config.schema.tracking import TrackingConfig
from sunfish.evaluation import samplers
from sunfish.evaluation.bound import Bound
from sunfish.evaluation.context import EvalContext, Numbers, Texts, name_of
from sunfish.evaluation.headline import headline_numbers
from sunfish.evaluation.held_out import measure_bound, measure_causal
from sunfish.evaluation.infilling import CUTS, measure_gap_bound, measure_infilling
from sunfish.evaluation.metrics import measure
from sunfish.evaluation.plots import read_curve, write_plots
from sunfish.evaluation.solving import measure_solving
from sunfish.evaluation.speed import measure_speed
from sunfish.evaluation.trajectory import Frame, pick_trajectory, thin
from sunfish.files import require_writable, write_json, write_text
from sunfish.printable import printable
from sunfish.tracking import Tracker


@dataclass(frozen=True)
class Places:
    """Where an evaluation reads and writes."""

    denoiser: Path
    shards: Path
    curve: Path
    metrics: Path  # the headline numbers
    results: Path  # every table
    plots: Path
    samples: Path


@dataclass(frozen=True)
class Settings:
    """The sections of params.yaml that an evaluation reads."""

    data: DataConfig
    evaluate: EvaluateConfig
    sampler: SamplerConfig
    tracking: TrackingConfig


def evaluate(settings: Settings, places: Places) -> None:
    """Measure and write everything."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sections = settings.data, settings.evaluate, settings.sampler
    context = EvalContext.read(places.denoiser, places.shards, *sections, device).with_judge()
    for path in (places.metrics, places.results, places.samples):
        require_writable(path)
    bound, results, frames = measure_all(context)
    write_plots(places.plots, read_curve(places.curve), bound, results, frames)
    write_json(places.results, results)
    write_json(places.metrics, headline_numbers(results))
    write_text(places.samples, samples_text(results["samples"]))
    track(settings.tracking, context, results, places)


def samples_text(samples: list[dict[str, Any]]) -> str:
    """Return the shown texts, one after another, with escapes for control characters."""
    return "\n\n".join(printable(sample["text"], newlines=True) for sample in samples) + "\n"


def measure_all(context: EvalContext) -> tuple[Bound, dict[str, Any], list[Frame]]:
    """Return the bound by noise level, every table, and the frames of one text."""
    bound, bound_numbers = measure_bound(context)
    texts, drafts, headline, draft = write_headline(context)
    frames = thin(pick_trajectory(context))
    results: dict[str, Any] = {
        "about": about(context),
        "bound": bound_numbers,
        **({"causal": measure_causal(context)} if context.stored.config.can_check else {}),
        "headline": headline,
        "draft": draft,
        "real_text": measure(context.real_texts(context.num_real), context),
        **measure_tables(context, headline, draft),
        "infilling": {name: measure_infilling(context, name) for name in CUTS},
        "gap_bound": measure_gap_bound(context),
        **({"solving": measure_solving(context)} if context.puzzle_size else {}),
        "samples": pairs(texts, drafts, context.config.shown_samples),
        "trajectory": [frame.to_json() for frame in frames],
    }
    return bound, results, frames


def write_headline(context: EvalContext) -> tuple[Texts, Texts, Numbers, Numbers]:
    """Return the configured sampler's texts, their drafts alone, and the metrics of both.

    Both come from the same noise, so the drafts are those that the check corrected. Without a check both are
    the same texts."""
    num = samplers.affordable(context.config.num_samples, context.sampler)
    drafts = context.write_texts(context.draft_sampler, num, seed=1)
    draft = measure(drafts, context)
    if context.sampler.check is None:
        return drafts, drafts, draft, draft
    texts = context.write_texts(context.sampler, num, seed=1)
    return texts, drafts, measure(texts, context), draft


def measure_tables(context: EvalContext, headline: Numbers, draft: Numbers) -> dict[str, dict[str, Numbers]]:
    """Return the tables of other samplers, of other numbers of steps, and of single texts' time."""
    known = {name_of(context.draft_sampler): draft, name_of(context.sampler): headline}
    others = samplers.measure_samplers(context, samplers.compared_samplers(context), known)
    plain = samplers.measure_samplers(context, samplers.by_steps(context.draft_sampler), known | others)
    checked = samplers.by_steps(context.sampler) if context.sampler.check else {}
    timed = samplers.named([context.sampler]) | samplers.founding_samplers(context)
    return {
        "samplers": others,
        "plain_by_steps": plain,
        "checked_by_steps": samplers.measure_samplers(context, checked, known),
        "speed": measure_speed(context, timed),
    }


def about(context: EvalContext) -> dict[str, Any]:
    """Return what was evaluated, how and when."""
    stored = context.stored
    return {
        "model": dataclasses.asdict(stored.config.model),
        "parameters": sum(p.numel() for p in stored.denoiser.parameters()),
        "can_check": stored.config.can_check,
        "model_sha256": stored.digest(),
        "shards_sha256": context.shards.digest(),
        "vocab_size": context.shards.vocab_size,
        "train_tokens": context.shards.num_tokens("train"),
        "held_out_rows": len(context.held_out),
        "sampler": context.sampler.to_dict(),
        "sampler_name": name_of(context.sampler),
        "grammar": context.grammar is not None,
        "judge": context.config.judge,
        "seed": context.config.seed,
        "device": str(context.device),
        "threads": torch.get_num_threads(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def pairs(texts: Texts, drafts: Texts, num: int) -> list[dict[str, str]]:
    """Return the first texts, each beside its draft."""
    both = zip(texts.words[:num], drafts.words[:num], strict=True)
    return [{"text": text, "draft": draft} for text, draft in both]


def track(config: TrackingConfig, context: EvalContext, results: dict[str, Any], places: Places) -> None:
    """Mirror the numbers and files to MLflow, in the run that trained the model."""
    tracker = Tracker(config, {"model_sha256": context.stored.digest()})
    keys = ("bound", "causal", "headline", "draft", "gap_bound", "infilling", "solving")
    tracker.log_metrics(flatten({key: results[key] for key in keys if key in results}, "evaluate"))
    for path in (places.plots, places.samples, places.results):
        tracker.log_artifacts(path, "evaluate")
    tracker.close()
