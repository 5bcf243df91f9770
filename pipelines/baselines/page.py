"""The comparison as one picture and one page that opens from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.baselines.contenders import FAMILIES
from sunfish.files import replacing, write_text
from sunfish.page import render
from sunfish.pictures import ACCENT, INK, picture

TEMPLATE = Path(__file__).with_name("page.html.jinja")
GREEN = "#3a7d44"
STYLES = {
    "sunfish": (ACCENT, "o--"),
    "sunfish_checked": (ACCENT, "o-"),
    "masked": (INK, "s--"),
    "masked_checked": (INK, "s-"),
    "autoregressive": (GREEN, "D-"),
}
COLUMNS = {
    "calls": ("calls", "{:.1f}"),
    "corrected": ("corrected", "{:.1f}"),
    "sentences_valid": ("valid", "{:.1%}"),
    "stories_consistent": ("consistent", "{:.1%}"),
    "unique": ("unique", "{:.1%}"),
    "entropy_corpus_nats": ("entropy", "{:.2f}"),
    "forms_total_variation": ("forms off", "{:.2f}"),
    "people_total_variation": ("people off", "{:.2f}"),
    "objects_total_variation": ("objects off", "{:.2f}"),
    "judged_nats_per_token": ("judged nats", "{:.3f}"),
    "seconds_per_text": ("seconds", "{:.4f}"),
}
ENTROPY_BELOW_REAL = 0.3  # nats: rows less varied than that do not compete
STORIES, ANY_TEXT = "stories_consistent", "judged_nats_per_token"

Results = dict[str, Any]
Row = dict[str, Any]


def quality_key(results: Results) -> str:
    """Return what rows are ranked by: the oracle's word on stories, else the autoregressive baseline's."""
    return STORIES if STORIES in results["rows"][0] else ANY_TEXT


def best_rows(results: Results) -> list[Row]:
    """Return the best row of each family, the best family first; rows of little variety do not compete."""
    key = quality_key(results)
    sign = -1.0 if key == STORIES else 1.0
    least = results["real"]["entropy_corpus_nats"] - ENTROPY_BELOW_REAL
    varied = [row for row in results["rows"] if row["entropy_corpus_nats"] >= least]
    ranked = sorted(varied, key=lambda row: sign * row[key])
    return [next(row for row in ranked if row["family"] == family) for family in _families(ranked)]


def _families(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row["family"] for row in rows))


def verdict(results: Results) -> str:
    """Return in one sentence who won, and by how much."""
    key, best = quality_key(results), best_rows(results)
    if not best:
        return "No model writes texts as varied as real ones."
    first, *others = best
    what = "share of consistent stories" if key == STORIES else "likelihood under the autoregressive baseline"
    behind = f", ahead of {'; '.join(_said(row, key) for row in others)}" if others else ""
    return f"Best by the {what}: {_said(first, key)}{behind}."


def _said(row: Row, key: str) -> str:
    return f"{FAMILIES[row['family']]} ({cell(row, key, COLUMNS[key][1])} in {row['calls']:.1f} calls)"


def cell(row: Row, key: str, form: str) -> str:
    """Return a number of the table; nothing where it was not measured."""
    return form.format(row[key]) if key in row else ""


def draw_picture(path: Path, results: Results) -> None:
    """Draw quality against calls, a line for each family."""
    key = quality_key(results)

    def draw(axes: Any) -> None:
        for family in _families(results["rows"]):
            rows = sorted(_of(results, family), key=lambda row: float(row["calls"]))
            color, form = STYLES[family]
            calls, values = [row["calls"] for row in rows], [row[key] for row in rows]
            axes.plot(calls, values, form, color=color, label=FAMILIES[family])
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("calls of the network for a text")
        axes.set_ylabel("stories consistent" if key == STORIES else "judged nats per token")
        axes.legend(frameon=False, fontsize=8)

    with replacing(path) as temporary:
        drawn = temporary.with_suffix(".png")
        picture(drawn, draw, "SunFish beside its baselines")
        drawn.rename(temporary)


def _of(results: Results, family: str) -> list[Row]:
    return [row for row in results["rows"] if row["family"] == family]


def write_page(path: Path, picture_path: Path, results: Results) -> None:
    """Write the page: who won, the table, the picture, samples."""
    best = best_rows(results)
    samples = {id(results["rows"][each["row"]]): each["texts"] for each in results["samples"]}
    columns = [(key, *column) for key, column in COLUMNS.items() if key in results["rows"][0]]
    page = render(
        TEMPLATE, picture_path.parent, results=results, verdict=verdict(results), columns=columns,
        picture_name=picture_path.name, families=FAMILIES,
        samples=[(row, samples[id(row)]) for row in best], cell=cell,
    )  # fmt: skip
    write_text(path, page)
