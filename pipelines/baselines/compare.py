"""SunFish beside its twins, trained on the same rows with the same operations: bounds, text at several
temperatures, the oracle's word.

python -m pipelines.baselines.compare --shards data/shards --denoiser models/denoiser --guess models/guess
--twins models/twins --out pipelines/baselines/results.json
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.baselines.objective import row_nats, text_end, write_rows
from sunfish.config.compose import check
from sunfish.evaluation.held_out import beside_grammar, measure_bound
from sunfish.evaluation.judge import MAUVE_SEEDS
from sunfish.evaluation.context import Numbers, EvalContext, Texts
from sunfish.files import write_json
from sunfish.model.guess import read_guess
from sunfish.model.baseline import StoredBaseline, read_baseline
from sunfish.errors import report_errors
from sunfish.progress import Progress, track
from sunfish.training.parallel import flushing_denormals, keep_freed_memory

TEMPERATURES = (0.6, 0.8, 1.0)
STEPS = (8, 16, 32, 128)
TEXTS_BY_STEPS = 500  # twelve rows, where differences are large
SHOWN = (
    "judged_perplexity", "mauve", "mauve_deviation",
    "sentences_valid", "stories_consistent", "people_total_variation", "forms_total_variation", "unique", "entropy_per_sample_nats",
    "entropy_corpus_nats", "distinct_2", "rep_2", "seconds_per_text", "calls_per_text",
)  # fmt: skip


@report_errors
@flushing_denormals()
def main() -> None:
    """Measure SunFish and both twins on the same texts."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--denoiser", type=Path, required=True)
    parser.add_argument("--guess", type=Path, help="what distill/dvc.yaml made of the denoiser")
    parser.add_argument("--twins", type=Path, required=True, help="folder of masked/ and autoregressive/")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    params = check(arguments.params)
    keep_freed_memory()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    section = dataclasses.replace(params["evaluate"], judge=str(arguments.twins / "autoregressive"))
    subject = EvalContext.read(
        arguments.denoiser, arguments.shards, params["data"], section, device
    ).with_judge()
    end = text_end(params["data"], subject.shards.end_id)
    twins = {kind: read_baseline(arguments.twins / kind) for kind in ("masked", "autoregressive")}
    for stored in twins.values():
        stored.twin.to(device)
    few = subject.told(num_samples=min(TEXTS_BY_STEPS, section.num_samples))
    writers = {
        "sunfish": in_steps(few),
        "masked": lambda steps: writer(few.told(num_steps=steps), twins["masked"], end)(section.temperature),
    }
    if arguments.guess:
        guess = read_guess(arguments.guess, subject.stored).to(device)
        writers["sunfish, with a distilled guess"] = in_steps(dataclasses.replace(few, guess=guess))
    results = {
        "held_out": {
            "sunfish": measure_bound(subject)[1],
            **(
                {"sunfish, one step a word": measure_bound(subject, num_levels=0)[1]}
                if section.window_steps == 1
                else {}
            ),
            **{kind: measure_twin(subject, stored, end) for kind, stored in twins.items()},
        },
        "texts": {
            "real": judged(subject, subject.real_texts(subject.num_real)),
            "sunfish": by_temperature(
                subject, lambda heat: subject.told(temperature=heat).write_texts(section.num_samples, 1)
            ),
            **{kind: by_temperature(subject, writer(subject, stored, end)) for kind, stored in twins.items()},
        },
        "steps": {name: by_steps(subject, write) for name, write in writers.items()},
        "parameters": {
            kind: sum(p.numel() for p in stored.twin.parameters()) for kind, stored in twins.items()
        },
        "how": {
            **{name: getattr(section, name) for name in ("num_samples", "num_steps", "sampler", "floor")},
            "temperature_by_steps": section.temperature,
            "num_samples_by_steps": few.section.num_samples,
            "mauve_seeds": MAUVE_SEEDS,
            "weights": "ema",
        },
    }
    write_json(arguments.out, results)


def by_temperature(subject: EvalContext, write: Callable[[float], Texts]) -> dict[str, Any]:
    """Return what can be said of a model's texts at each temperature."""
    return {f"{heat:g}": judged(subject, write(heat)) for heat in TEMPERATURES}


def by_steps(subject: EvalContext, write: Callable[[int], Texts]) -> dict[str, Any]:
    """Return the same by how many steps a text may take."""
    return {str(steps): judged(subject, write(steps)) for steps in STEPS}


def in_steps(subject: EvalContext) -> Callable[[int], Texts]:
    """Return a function that lets SunFish write in so many steps."""
    return lambda steps: subject.told(num_steps=steps).write_texts(subject.section.num_samples, 1)


def judged(subject: EvalContext, texts: Texts) -> Numbers:
    """Return what any evaluation says of texts, their perplexity under the autoregressive twin, and how near
    they are to real ones.
    """
    everything = subject.judge(texts, near=True)
    return {key: everything[key] for key in SHOWN if key in everything}


def writer(subject: EvalContext, stored: StoredBaseline, end: int | None) -> Callable[[float], Texts]:
    """Return a function that lets a twin write as many texts as SunFish, the masked one in as many steps and
    of the same lengths.
    """
    section, twin, lengths = subject.section, stored.twin, stored.lengths

    def write(heat: float) -> Texts:
        rng, rows, started = np.random.default_rng((section.seed, 1)), list[list[int]](), time.perf_counter()
        drawn = (
            lengths.draw(section.num_samples, rng)
            if twin.kind == "masked"
            else np.full(section.num_samples, lengths.longest)
        )
        with Progress(f"{twin.kind}, T {heat:g}", section.num_samples, "texts") as progress:
            for length, total in zip(
                *(values.tolist() for values in np.unique(drawn, return_counts=True)), strict=True
            ):
                for start in range(0, total, section.batch_rows):
                    count = min(section.batch_rows, total - start)
                    rows += subject.cut(
                        write_rows(twin, count, length, section.num_steps, heat, section.floor, end, rng)
                    )
                    progress.add(count)
        return subject.texts(rows, (time.perf_counter() - started) / section.num_samples)

    return write


@torch.no_grad()
def measure_twin(subject: EvalContext, stored: StoredBaseline, end: int | None) -> dict[str, float]:
    """Return held-out nats per token: exact, or the masked twin's bound with what the length costs."""
    section, held_out, twin, lengths = subject.section, subject.held_out, stored.twin, stored.lengths
    indices, rng = held_out.first(section.bound_rows), np.random.default_rng((section.seed, 0))
    nats = []
    for ids in track(held_out.batches(indices, section.batch_rows), twin.kind, "batches", None):
        if twin.kind == "autoregressive":
            nats.append(row_nats(twin, ids, end, rng).double().cpu().numpy())
            continue
        levels = (
            np.arange(section.bound_levels)[:, None] + 1.0 - rng.random((1, len(ids)))
        ) / section.bound_levels
        drawn = [row_nats(twin, ids, end, rng, times).double().cpu().numpy() for times in levels]
        nats.append(np.mean(drawn, axis=0) + lengths.nats(np.full(len(ids), ids.shape[1])))
    rows, tokens = np.concatenate(nats), float(held_out.num_tokens(indices).sum())
    texts = [
        text
        for ids in held_out.batches(indices, section.batch_rows)
        for text in subject.texts(subject.cut(ids)).words
    ]
    return {
        "nats_per_token": float(rows.sum()) / tokens,
        "nats_per_token_standard_error": float(rows.std(ddof=1)) * math.sqrt(len(rows)) / tokens,
        "nats_per_row": float(rows.mean()),
        "rows": len(rows),
        **(beside_grammar(rows, texts, subject.grammar) if subject.grammar else {}),
    }


if __name__ == "__main__":
    main()
