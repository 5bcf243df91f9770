"""docs/RESULTS.md, and the tables of README.md and docs/FINETUNING.md, from the committed results.

python -m benchmarks.results_page
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import yaml

from benchmarks.markdown import Read, Row, columns, fill, grid, read_optional
from benchmarks.told_tables import finetuning_page
from sunfish.errors import report_errors
from sunfish.files import write_text

ROOT = Path(__file__).parent.parent
SHOWN_SAMPLES = 4
QUALITY = {
    "texts": ("count", ",.0f"),
    "consistent": ("stories_consistent", ".1%"),
    "valid": ("sentences_valid", ".1%"),
    "unique": ("unique", ".1%"),
    "entropy": ("entropy_corpus_nats", ".2f"),
    "forms off": ("forms_total_variation", ".3f"),
    "people off": ("people_total_variation", ".3f"),
    "objects off": ("objects_total_variation", ".3f"),
    "calls": ("calls_per_text", ".1f"),
    "corrected": ("corrected_per_text", ".2f"),
    "ms a text": ("seconds_per_text", "ms"),
}
SOLVED = ("solved", "unknown_as_written", "calls_per_text", "seconds_per_text", "rows")


@report_errors
def main() -> None:
    """Write the pages anew."""
    for name, text in pages(lambda name: (ROOT / name).read_text(encoding="utf-8")).items():
        write_text(ROOT / name, text)


def plural(num: int, noun: str) -> str:
    """Return "1 thread", "2 threads"."""
    return f"{num:,} {noun}" + ("" if num == 1 else "s")


def pages(read: Read) -> dict[str, str]:
    """Return README.md, docs/RESULTS.md and docs/FINETUNING.md with the figures of the committed files."""
    results = json.loads(read("results/evaluate.json"))
    baselines, seeds, puzzles = (
        read_optional(read, f"results/benchmarks/{name}.json") for name in ("baselines", "seeds", "puzzles")
    )
    pretrain, export = (json.loads(read(f"results/metrics/{name}.json")) for name in ("pretrain", "export"))
    rows_per_step = yaml.safe_load(read("params.yaml"))["pretrain"]["batch_rows"]
    samples = "\n>\n".join(f"> {sample['text']}" for sample in results["samples"][:SHOWN_SAMPLES])
    readme = fill(read("README.md"), "samples", samples)
    readme = fill(readme, "numbers", headline(results, baselines, pretrain, rows_per_step, seeds))
    page = results_page(results, baselines, pretrain, export, seeds) + puzzle_rows(puzzles)
    return {"README.md": readme, "docs/RESULTS.md": page, "docs/FINETUNING.md": finetuning_page(read)}


def table(rows: dict[str, Row], names: Iterable[str]) -> str:
    """Return rows of quality and cost as Markdown."""
    return columns(rows, {name: QUALITY[name] for name in names})


def seed_share(seeds: Row | None) -> str:
    """Return which training seeds were measured, and how consistent their texts are."""
    if seeds is None:
        return "one training seed"
    shares = [f"{100 * row['stories_consistent']:.1f}" for row in seeds["rows"]]
    return f"training seed 0 ({len(shares)} seeds: {', '.join(shares)} % consistent)"


def headline(
    results: Row, baselines: Row | None, pretrain: Row, rows_per_step: int, seeds: Row | None
) -> str:
    """Return the one table of the README."""
    draft, checked = results["draft"], results["headline"]
    rows = {"**SunFish, checked** (the default)": checked, "SunFish, the same drafts unchecked": draft}
    rows |= {f"SunFish, {name}": row for name, row in results["samplers"].items()}
    best = [best_row(baselines, family) for family in ("masked_checked", "masked", "autoregressive")]
    rows |= {f"{FAMILY[row['family']]}, {row['name']}": row for row in best if row}
    rows["real stories, held out"] = results["real_text"]
    names = ("texts", "consistent", "valid", "unique", "entropy", "calls", "corrected", "ms a text")
    minutes = pretrain["steps"] * rows_per_step / pretrain["rows_per_second"] / 60
    trained = f" in {minutes:.0f} minutes of {plural(pretrain['threads'], 'thread')}"
    size, tokens = results["about"]["parameters"], results["headline"]["tokens_per_sample"]
    return f"""{size:,} parameters, {pretrain["steps"]:,} steps{trained}, temperature 1,
{seed_share(seeds)}.
The grammar's own parser is the judge; it steers nothing.

{table(rows, names)}

*Consistent*: stories without a contradiction from the first word to the last.
*Calls*: evaluations of the network. *Corrected*: tokens that the check replaced, of {tokens:.0f}.
{BESIDE if baselines else ""}"""


BESIDE = "The baselines have the same transformer, data and operations."
FAMILY = {
    "masked_checked": "masked diffusion with the same check",
    "masked": "masked diffusion",
    "autoregressive": "autoregressive",
}


def best_row(baselines: Row | None, family: str) -> Row | None:
    """Return the row of a family with the most consistent stories."""
    count = {"count": baselines["how"]["texts"]} if baselines else {}
    rows = [count | row for row in baselines["rows"] if row["family"] == family] if baselines else []
    return max(rows, key=lambda row: row["stories_consistent"], default=None)


def results_page(results: Row, baselines: Row | None, pretrain: Row, export: Row, seeds: Row | None) -> str:
    """Return docs/RESULTS.md."""
    about, checked = results["about"], results["headline"]
    held_out = {
        "SunFish, whole-text bound": results["bound"],
        "SunFish's causal pass, exact": results.get("causal", {}),
    }
    configured = {about["sampler_name"]: checked, "its drafts, unchecked": results["draft"]}
    parts = [
        "# Results",
        "Generated by `python -m benchmarks.results_page` from committed files. "
        f"The default run: {about['parameters']:,} parameters, {pretrain['steps']:,} steps of 32 rows, "
        f"seed 0, averaged weights, temperature 1, {plural(about['threads'], 'thread')}; "
        f"evaluated on {about['date']}.",
        "## The default, its drafts, and other samplers",
        "`dvc repro evaluate`. A name is the solver and its steps. "
        "Texts a row: 2,000 of the default, fewer of others.",
        table({**configured, **results["samplers"], "real stories, held out": results["real_text"]}, QUALITY),
        "### By the steps of the first draft, unchecked", table(results["plain_by_steps"], QUALITY),
        "### By the steps of the first draft, checked", table(results["checked_by_steps"], QUALITY),
        "## Likelihood of held-out text", likelihoods({**held_out, **(baselines or {}).get("held_out", {})}),
        "## Gaps, and the beginning from a given end", grid(results["infilling"], ".3f"),
        "## One text at a time, torch", grid(results["speed"], ".3g"),
        "## The exported folder against torch, on the same noise", parity(export),
        *(seed_rows(seeds) if seeds else []),
        *(beside_baselines(baselines) if baselines else []),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def seed_rows(seeds: Row) -> list[str]:
    """Return the default by training seeds."""
    rows = {f"seed {row['seed']}": row for row in seeds["rows"]}
    return [
        "## By training seeds",
        f"`python -m benchmarks.seeds`, {seeds['texts']} texts a row.",
        table(rows, QUALITY),
    ]


def puzzle_rows(puzzles: Row | None) -> str:
    """Return the puzzles solved, and the autoregressive baseline beside them."""
    if puzzles is None:
        return ""
    rows = {
        f"{family}, {name}": row
        for family, table_ in (("SunFish", puzzles["solving"]), ("autoregressive", puzzles["autoregressive"]))
        for name, row in table_.items()
    }
    training, given = puzzles["training"], puzzles["solving"]["configured"]["given_per_text"]
    return f"""
## Puzzles

`python -m benchmarks.puzzles`: 6x6 Sudoku of one solution, {given:.1f} cells given on average and none too
many. {training["steps"]:,} steps of {training["rows_per_step"]} rows; {training["baseline_steps"]:,} of the
baseline, as many operations. The baseline reads the puzzle, then writes the solution.
Written freely, {puzzles["free"]["grids_valid"]:.1%} of SunFish's grids are valid.

{grid({name: {key: row[key] for key in SOLVED if key in row} for name, row in rows.items()}, ".3f")}
"""


def beside_baselines(baselines: Row) -> list[str]:
    """Return the comparison at equal operations."""
    rows = {f"{row['family'].replace('_', ', ')}: {row['name']}": row for row in baselines["rows"]}
    return [
        "## Beside the baselines, at equal operations",
        f"`dvc --cd pipelines/baselines repro`, {baselines['how']['texts']} texts a row.",
        table({**rows, "real": baselines["real"]}, QUALITY),
        "### A text of one length, all in one run", speeds(baselines["speed"]),
    ]  # fmt: skip


def likelihoods(rows: dict[str, Row]) -> str:
    """Return nats per token with their standard error, and times the grammar's entropy."""
    lines = ["| | nats per token | standard error | times the grammar's entropy |", "|---|---|---|---|"]
    for name, row in rows.items():
        if row:
            over = f"{row['ratio_to_entropy']:.3f}" if "ratio_to_entropy" in row else ""
            error = row["nats_per_token_standard_error"]
            lines.append(f"| {name} | {row['nats_per_token']:.4f} | {error:.4f} | {over} |")
    return "\n".join(lines)


def speeds(rows: list[Row]) -> str:
    """Return milliseconds a text at batch 1 and 32."""
    lines = ["| | ms, batch 1 | ms, batch 32 |", "|---|---|---|"]
    for row in rows:
        times = (1000 * row[f"seconds_per_text_batch_{num}"] for num in (1, 32))
        lines.append(
            f"| {row['family'].replace('_', ', ')}: {row['name']} | "
            + " | ".join(f"{t:.1f}" for t in times)
            + " |"
        )
    return "\n".join(lines)


def parity(export: Row) -> str:
    """Return how many ids differ from torch's."""
    walks = export["parity"]["samplers"]
    keys = list(walks[0])
    lines = ["| " + " | ".join(key.replace("_", " ") for key in keys) + " |", "|" + "---|" * len(keys)]
    lines += ["| " + " | ".join(str(walk[key]) for key in keys) + " |" for walk in walks]
    error = export["parity"]["relative_error_per_call"]
    return f"Largest relative error of a call: {error:.1e}.\n\n" + "\n".join(lines)


if __name__ == "__main__":
    main()
