"""The report: one HTML page that opens from disk, no network; numbers with their limits, pictures, one text
becoming, samples, settings.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from sunfish.config.schema.data import DataConfig
from sunfish.evaluation.context import EvalContext, Texts
from sunfish.evaluation.infilling import GAP_SHARE
from sunfish.evaluation.quality import REFERENCE_STORIES
from sunfish.evaluation.trajectory import Trajectory
from sunfish.files import write_text
from sunfish.page import flat, render

TEMPLATE = Path(__file__).with_name("report.html")


class Measure(NamedTuple):
    """One number's name for people, its unit and how it was made."""

    label: str
    form: str
    how: str


DISTANCE = "total variation to the grammar's shares: 0 alike, 1 nothing in common; a few hundred texts are never at 0"
MEASURES = {
    "sentences_valid": Measure(
        "sentences valid", "percent", "share of sentences that the grammar's parser accepts, each by itself"
    ),
    "stories_consistent": Measure(
        "stories consistent", "percent", "share of texts that it accepts as one story, first word to last"
    ),
    "people_total_variation": Measure(
        "people, distance from the grammar", "plain", f"{DISTANCE}; whom a story is about"
    ),
    "objects_total_variation": Measure(
        "objects, distance from the grammar", "plain", f"{DISTANCE}; the first object named"
    ),
    "forms_total_variation": Measure(
        "sentence forms, distance from the grammar",
        "plain",
        f"{DISTANCE}; as {REFERENCE_STORIES:,} of its stories have them",
    ),
    "unique": Measure("unique", "percent", "number of different texts over number of texts"),
    "entropy_per_sample_nats": Measure(
        "entropy of tokens per text", "nats", "unigram entropy of one text's tokens, mean over texts"
    ),
    "entropy_corpus_nats": Measure(
        "entropy of tokens over all texts", "nats", "unigram entropy of all texts' tokens together"
    ),
    "distinct_2": Measure(
        "distinct pairs", "percent", "different pairs of tokens over all pairs; fewer texts have more"
    ),
    "distinct_3": Measure("distinct triples", "percent", "the same with three tokens"),
    "rep_2": Measure(
        "repeated pairs", "percent", "pairs within a text that it has said before, mean over texts"
    ),
    "judged_perplexity": Measure(
        "perplexity by the judge",
        "plain",
        "exp of the judge's mean -log p of its own tokens; compares at like entropy only",
    ),
    "mauve": Measure(
        "MAUVE",
        "plain",
        "over the judge's last states beside as many held-out texts, mean over five seeds of the clusters; 1: alike",
    ),
    "tokens_per_sample": Measure("tokens per text", "plain", "mean, up to the first end token"),
    "calls_per_text": Measure(
        "denoiser calls per text", "plain", "mean, until a text's last word had settled"
    ),
    "seconds_per_text": Measure(
        "seconds per text", "plain", "time of all texts, in batches, over their number; torch, this machine"
    ),
}
PICTURES = {
    "loss_by_level.png": "Where the noise leaves something to decide. The area is where training and sampling spend their steps.",
    "quality_by_steps.png": "What more denoiser calls buy.",
    "quality_by_window.png": "What it costs to decide many words at once: on the left one at a time, on the right all together.",
    "quality_by_entropy.png": "Quality beside variety. Points whose entropies differ by more than 0.1 nats do not rank.",
    "loss_curve.png": "The training loss is no likelihood: it is the cross-entropy at whatever noise levels were drawn.",
}


def write_report(
    path: Path,
    subject: EvalContext,
    data: DataConfig,
    metrics: dict[str, Any],
    plots: Path,
    trajectory: Trajectory,
    texts: Texts,
) -> None:
    """Write the page, whole or not at all."""
    denoiser, section = subject.stored.denoiser, subject.section
    page = render(
        TEMPLATE,
        plots,
        metrics=metrics,
        measures={key: measure for key, measure in MEASURES.items() if key in metrics["samples"]},
        gap_share=GAP_SHARE,
        pictures=PICTURES,
        becoming=becoming(subject, trajectory),
        samples_shown=texts.words[: section.shown_samples],
        parameters=sum(p.numel() for p in denoiser.parameters()),
        digest=subject.stored.digest(),
        shards_digest=subject.shards.digest(),
        settings={
            "model": flat(denoiser.section),
            "data": flat(data),
            "evaluate": flat(section),
            "noise law": {
                "logsnr": f"{subject.stored.law.logsnr[0]:.2f} (data) to {subject.stored.law.logsnr[-1]:.2f} (noise)"
            },
        },
    )
    write_text(path, page)


def becoming(subject: EvalContext, trajectory: Trajectory) -> str:
    """Return the words of each step, how sure each is (percent) and which have settled, as JSON that may
    stand inside a script.
    """
    steps = {
        "words": [subject.words_of(row) for row in trajectory.ids],
        "sure": (100 * trajectory.probability).round().astype(int).tolist(),
        "settled": trajectory.settled.astype(int).tolist(),
    }
    return json.dumps(steps, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
