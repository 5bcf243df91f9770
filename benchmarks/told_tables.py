"""Tables of docs/FINETUNING.md, from what the fine-tuning pipeline and the E2E benchmark measured."""

from __future__ import annotations

from benchmarks.markdown import Read, Row, columns, fill, read_optional

NAMES = {"sunfish": "SunFish", "full": "all weights", "lora": "LoRA", "base": "the base"}
COST = {"calls": ("calls", ".1f"), "corrected": ("corrected", ".2f")}
STORIES = {
    "all met": ("all_met", ".1%"), "consistent": ("stories_consistent", ".1%"), "unique": ("unique", ".1%"),
    "entropy": ("entropy_corpus_nats", ".2f"), **COST,
}  # fmt: skip
CANVASES = {name: STORIES[name] for name in ("all met", "consistent")}
CANVASES |= {"empty": ("empty", ".1%"), "tokens": ("tokens_per_sample", ".1f")}
E2E = {
    "slots missed": ("slot_error_rate", ".1%"), "BLEU": ("bleu", ".1f"), "chrF": ("chrf", ".1f"),
    "unique": ("unique", ".1%"), "words": ("words", ".1f"), **COST,
}  # fmt: skip


def finetuning_page(read: Read) -> str:
    """Return docs/FINETUNING.md with the figures of the files that `read` returns."""
    page = read("docs/FINETUNING.md")
    tables = {"finetune": task_tables, "e2e": e2e_table}
    results = {name: read_optional(read, f"results/benchmarks/{name}.json") for name in tables}
    for name, found in results.items():
        page = fill(page, name, "Not measured yet." if found is None else tables[name](found))
    return page


def task_tables(results: Row) -> str:
    """Return story tasks by model and sampler, by kind of constraint, by canvas, and what trainings took."""
    rows = labelled(results["tasks"])
    rows |= {f"{NAMES[name]}, free stories": row for name, row in results["free"].items()}
    kinds = {kind: (kind, ".1%") for kind in results["tasks"][0]["met"]}
    first = {row["model"]: row["met"] for row in reversed(results["tasks"])}
    met = {NAMES.get(model, model): met for model, met in reversed(first.items())}
    canvases = {f"{row['tokens']} tokens": row for row in results["canvases"]}
    return "\n\n".join((
        f"{results['how']['tasks']} held-out tasks, one training seed, temperature 1.",
        columns(rows, STORIES), "By kind of constraint:", columns(met, kinds),
        "All weights, with more or less room than is drawn:", columns(canvases, CANVASES),
        training(results["training"]),
    ))  # fmt: skip


def training(results: Row) -> str:
    """Return what the trainings took."""
    full, lora = results["full"], results["lora"]
    share = lora["trained_parameters"] / lora["parameters"]
    time, memory = (
        lora["step_seconds"] / full["step_seconds"],
        lora["learning_bytes"] / full["learning_bytes"],
    )
    return f"""{full["steps"]:,} steps of {full["step_seconds"]:.2f} seconds of one processor.
LoRA trains {share:.1%} of the parameters, in {time:.2f} of the time and
{memory:.2f} of the bytes of gradients and optimiser states.
The baseline took {results["autoregressive"]["steps"]:,} steps, as many operations."""


def e2e_table(results: Row) -> str:
    """Return E2E by model and sampler, and what the matcher makes of people's texts."""
    people = results["people"]
    return f"""{columns(labelled(results["rows"]), E2E)}

The matcher misses {people["slot_error_rate"]:.1%} of the slots in people's own texts, and finds
{people["false_hit_rate"]:.1%} of the values that they were not asked for."""


def labelled(rows: list[Row]) -> dict[str, Row]:
    """Return rows by model and sampler."""
    return {f"{NAMES.get(row['model'], row['model'])}, {row['sampler']}": row for row in rows}
