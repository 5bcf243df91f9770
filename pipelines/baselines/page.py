"""One page that opens from disk: SunFish beside its twins, on stories and on real text, with pictures.

python -m pipelines.baselines.page --results benchmarks/twins --out pipelines/baselines/report.html
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from sunfish.files import read_json, write_text
from sunfish.page import render
from sunfish.pictures import ACCENT, INK, PALE, picture
from sunfish.errors import report_errors

TEMPLATE = Path(__file__).with_name("report.html.jinja")
CORPORA = {
    "results": "Stories of the grammar",
    "stories_35m": "Stories of the grammar, 35 M parameters",
    "long_stories": "Stories of the longer grammar",
    "tinystories": "TinyStories",
    "real_text": "A sample of FineWeb in 4,096 pieces",
    "fineweb_sample": "A sample of FineWeb in GPT-2's tokens",
}
COLORS = {
    "sunfish": ACCENT,
    "sunfish, with a distilled guess": "#f2a48f",
    "masked": INK,
    "autoregressive": PALE,
}
NAMES = {
    "sunfish": "SunFish",
    "sunfish, one step a word": "SunFish, one step a word",
    "sunfish, with a distilled guess": "SunFish with the guess",
    "masked": "masked diffusion",
    "autoregressive": "autoregressive",
}
COLUMNS = {
    "sentences_valid": ("valid", "percent"),
    "stories_consistent": ("consistent", "percent"),
    "judged_perplexity": ("judged perplexity", "plain"),
    "mauve": ("MAUVE", "plain"),
    "entropy_corpus_nats": ("entropy", "plain"),
    "distinct_2": ("distinct pairs", "percent"),
    "calls_per_text": ("calls", "plain"),
}
LIKE = 0.1  # nats of entropy within which texts rank

Numbers = dict[str, float]
Results = dict[str, Any]


@report_errors
def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--results", type=Path, required=True, help="folder of results.json and its companions"
    )
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    write_page(arguments.out, {name: read_json(arguments.results / f"{name}.json") for name in CORPORA})


def write_page(path: Path, results: dict[str, Results]) -> None:
    """Write the page of several comparisons, by the names of `CORPORA`."""
    with tempfile.TemporaryDirectory() as place:
        for name, result in results.items():
            draw_by_steps(Path(place) / f"{name}_steps.png", result)
            draw_by_entropy(Path(place) / f"{name}_entropy.png", result)
        shown = {"corpora": CORPORA, "names": NAMES, "columns": COLUMNS, "like": LIKE, "ranks": ranks}
        page = render(TEMPLATE, Path(place), results=results, **shown)
    write_text(path, page)


def ranks(models: dict[str, dict[str, Numbers]], at: str) -> bool:
    """Say whether all models' texts at a temperature, or in so many steps, have entropies near enough to
    rank.
    """
    entropies = [rows[at]["entropy_corpus_nats"] for rows in models.values()]
    return max(entropies) - min(entropies) <= LIKE


def quality_of(result: Results) -> str:
    """Return what tells good text from bad: the oracle where there is one, or else the judge."""
    return "stories_consistent" if "stories_consistent" in result["texts"]["real"] else "judged_perplexity"


def draw_by_steps(path: Path, result: Results) -> None:
    """Draw judged perplexity by steps, real text's beside it."""

    def draw(axes: Any) -> None:
        for kind, rows in result["steps"].items():
            axes.plot(
                [int(at) for at in rows],
                [row["judged_perplexity"] for row in rows.values()],
                "o-",
                color=COLORS[kind],
                label=NAMES[kind],
            )
        axes.axhline(
            result["texts"]["real"]["judged_perplexity"], color=PALE, linestyle="--", label="real text"
        )
        axes.set(
            xlabel="steps a text may take",
            ylabel="perplexity by the autoregressive twin",
            xscale="log",
            yscale="log",
        )
        ticks = [int(at) for at in result["steps"]["sunfish"]]
        axes.set_xticks(ticks, [str(at) for at in ticks])
        axes.minorticks_off()
        axes.legend(frameon=False)

    picture(path, draw, "Judged perplexity by steps")


def draw_by_entropy(path: Path, result: Results) -> None:
    """Draw quality beside variety, a point a temperature."""
    key = quality_of(result)
    label, form = key.replace("_", " "), COLUMNS[key][1]
    factor = 100.0 if form == "percent" else 1.0

    def draw(axes: Any) -> None:
        for kind in ("sunfish", "masked", "autoregressive"):
            rows = result["texts"][kind]
            points = (
                [row["entropy_corpus_nats"] for row in rows.values()],
                [factor * row[key] for row in rows.values()],
            )
            axes.plot(*points, "o-", color=COLORS[kind], label=NAMES[kind])
            for heat, x, y in zip(rows, *points, strict=True):
                aside = (
                    0,
                    -14 if kind == "sunfish" else 7,
                )  # where two curves meet, names stand on either side
                axes.annotate(
                    f"T {heat}",
                    (x, y),
                    textcoords="offset points",
                    xytext=aside,
                    ha="center",
                    fontsize=8,
                    color=COLORS[kind],
                )
        real = result["texts"]["real"]
        axes.plot(
            real["entropy_corpus_nats"],
            factor * real[key],
            "*",
            color="black",
            markersize=12,
            label="real text",
        )
        axes.set(
            xlabel="entropy of tokens over all texts, nats",
            ylabel=f"{label}, %" if form == "percent" else label,
        )
        if form != "percent":
            axes.set_yscale("log")
        axes.legend(frameon=False)

    picture(path, draw, f"{label.capitalize()} beside variety")


if __name__ == "__main__":
    main()
