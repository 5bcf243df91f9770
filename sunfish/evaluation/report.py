"""The report: one HTML page that opens from disk, made of what the stages before it wrote."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sunfish.config.convert import flatten
from sunfish.config.schema.data import DataConfig
from sunfish.errors import UserError
from sunfish.files import read_json, write_text
from sunfish.page import render

TEMPLATE = Path(__file__).with_name("report.html")
DISTANCE = "total variation from the grammar's frequencies: 0 alike, 1 nothing in common"
DISTANCE += "; few texts are never at 0"


class Measure(NamedTuple):
    """One number's name for people, how it is shown, and what it means."""

    label: str
    form: str
    how: str


MEASURES = {
    "sentences_valid": Measure("sentences valid", "percent", "sentences that the grammar accepts one by one"),
    "stories_consistent": Measure("stories consistent", "percent", "whole texts that the grammar accepts"),
    "grids_valid": Measure("grids valid", "percent", "each digit once in each row, column and box"),
    "judged_perplexity": Measure(
        "judged perplexity", "plain", "by the judge; compares at equal entropy only"
    ),
    "judged_as_real": Measure(
        "as probable as real", "percent", "texts that the judge finds as probable as 95 % of real ones"
    ),
    "sentences_memorised": Measure(
        "memorised", "percent", "sentences that stand word for word in the training text"
    ),
    "mauve": Measure("MAUVE", "plain", "how alike the judge finds these texts and real ones; 1 is alike"),
    "entropy_corpus_nats": Measure(
        "entropy", "plain", "of tokens over all texts, nats; real text's is the goal"
    ),
    "unique": Measure("unique", "percent", "different texts over all texts"),
    "corrected_per_text": Measure("corrected", "plain", "tokens per text that a check replaced"),
    "calls_per_text": Measure("calls", "plain", "passes of the network per text, denoising steps and checks"),
    "seconds_per_text": Measure("time per text", "seconds", "of a batch, shared by its texts; by torch"),
    "forms_total_variation": Measure("sentence forms, distance", "plain", DISTANCE),
    "people_total_variation": Measure("people, distance", "plain", f"whom a story is about; {DISTANCE}"),
    "objects_total_variation": Measure("objects, distance", "plain", f"the first object named; {DISTANCE}"),
    "entropy_per_sample_nats": Measure("entropy per text", "plain", "of single tokens within one text, nats"),
    "distinct_2": Measure("distinct pairs", "percent", "different pairs of tokens; fewer texts have more"),
    "distinct_3": Measure("distinct triples", "percent", "the same of three tokens"),
    "rep_2": Measure("repeated pairs", "percent", "pairs within a text that it has said before"),
    "tokens_per_sample": Measure("tokens per text", "plain", "mean, up to the first end token"),
    "mauve_deviation": Measure("MAUVE, deviation", "plain", "over five seeds of its clusters"),
    "count": Measure("texts", "count", "how many were measured"),
}
COLUMNS = (
    *("stories_consistent", "sentences_valid", "grids_valid"),
    *("judged_perplexity", "judged_as_real", "sentences_memorised", "entropy_corpus_nats", "unique"),
    *("calls_per_text", "corrected_per_text", "seconds_per_text", "count"),
)
QUALITY = COLUMNS[:8]


@dataclass(frozen=True)
class Inputs:
    """What the stages before wrote."""

    results: Path
    pretrain: Path
    plots: Path


def write_report(path: Path, inputs: Inputs, data: DataConfig, settings: dict[str, Any]) -> None:
    """Write the page, whole or not at all; `settings` are sections of params.yaml to print.

    Raises:
        UserError: a file is missing or was written by another version.
    """
    results, pretrain = read_json(inputs.results), read_json(inputs.pretrain)
    if not isinstance(results, dict) or "headline" not in results:
        says = "holds no evaluation of this version"
        raise UserError(f"{inputs.results}: {says}; run the evaluate stage again")
    try:
        page = render(
            TEMPLATE, inputs.plots, r=results, about=results["about"], pretrain=pretrain,
            sources=describe_sources(data), measures=MEASURES, own=own_measures(results),
            columns=columns_in(COLUMNS, results), quality=columns_in(QUALITY, results),
            settings={name: flatten(section) for name, section in settings.items()},
        )  # fmt: skip
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: no such picture; run the evaluate stage again") from error
    write_text(path, page)


def describe_sources(data: DataConfig) -> str:
    """Return what was trained on: each source's name, and its kind where that says more."""
    kinds = {name: str(source.kind) for name, source in data.sources.items()}
    return ", ".join(name if name == kind else f"{name} ({kind})" for name, kind in kinds.items())


def own_measures(results: dict[str, Any]) -> dict[str, Measure]:
    """Return the measures of the headline's texts; a plugin's metric is named by its key."""
    known = {key: measure for key, measure in MEASURES.items() if key in results["headline"]}
    others = (key for key in results["headline"] if key not in MEASURES)
    return known | {key: Measure(key.replace("_", " "), "plain", "of a plugin") for key in others}


def columns_in(columns: Iterable[str], results: dict[str, Any]) -> list[str]:
    """Return the columns that the results have."""
    return [key for key in columns if key in results["headline"]]
