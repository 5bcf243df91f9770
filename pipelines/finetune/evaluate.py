"""How well models write what they are told, and what they forgot: all weights, an adapter, a baseline.

python -m pipelines.finetune.evaluate --models models/finetuned
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pipelines.baselines.autoregressive import sample_autoregressive
from pipelines.baselines.contenders import EPSILON_CUTOFF
from pipelines.finetune.cost import training_costs
from pipelines.finetune.train import SECTIONS
from sunfish.config.compose import read_section
from sunfish.config.schema.sampler import SamplerConfig
from sunfish.errors import report_errors
from sunfish.evaluation.answers import SampleRows, denoising, write_answers
from sunfish.evaluation.context import EvalContext, Numbers, Texts, name_of
from sunfish.evaluation.quality import story_metrics, text_metrics
from sunfish.files import write_json
from sunfish.model.adapter import read_adapted
from sunfish.model.baseline import StoredBaseline, read_baseline
from sunfish.model.pretrained import FolderConfig, StoredDenoiser, read_denoiser
from sunfish.text.lexicon import SHORT
from sunfish.text.tasks import judge_task, write_tasks
from sunfish.training.parallel import flushing_denormals

TASK_SEED = 2**32  # no corpus is written from so large a seed
SHOWN = 8
FEW_CALLS = 2  # steps of a first draft
CANVASES = (32, 48, 64, 96)  # tokens that an answer may have


class Writer(NamedTuple):
    """What answers instructions."""

    model: str
    sampler: str
    sample: SampleRows
    config: FolderConfig


@report_errors
@flushing_denormals()
def main() -> None:
    """Answer held-out story tasks with all models, write free stories with the denoisers, and measure."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--params", type=Path, default=Path("pipelines/finetune/params.yaml"))
    parser.add_argument("--base", type=Path, default=Path("models/denoiser"))
    parser.add_argument("--base-params", type=Path, default=Path("params.yaml"), help="of the base's shards")
    parser.add_argument("--base-shards", type=Path, default=Path("data/shards"))
    parser.add_argument("--shards", type=Path, default=Path("data/tasks"))
    parser.add_argument("--models", type=Path, default=Path("models/finetuned"))
    parser.add_argument("--metrics", type=Path, default=Path("results/finetune"), help="of the trainings")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/finetune.json"))
    arguments = parser.parse_args()
    sections = {name: read_section(arguments.params, name) for name in (*SECTIONS, "evaluate", "sampler")}
    data, shards = read_section(arguments.base_params, "data"), arguments.base_shards
    how = sections["evaluate"], sections["sampler"]
    context = EvalContext.read(arguments.base, shards, data, *how)
    results = compare(context, sections, arguments.models, arguments.shards, arguments.metrics)
    write_json(arguments.out, results)


def compare(
    context: EvalContext, sections: dict[str, Any], models: Path, shards: Path, metrics: Path
) -> dict[str, Any]:
    """Return all results as plain values; `context` is that of the base and its free texts."""
    adapted, over = read_adapted(context.stored.folder, models / "lora")
    with over.disable_adapter():
        is_base = says_the_same(context.stored, adapted)
    stored = {"full": read_denoiser(models / "full"), "lora": adapted}
    baseline, sampler = read_baseline(models / "autoregressive"), context.sampler
    full, *_ = denoisers(stored, sampler)
    return {
        "tasks": [
            {"model": each.model, "sampler": each.sampler, **answer(context, each)}
            for each in (*denoisers(stored, sampler), *autoregressive(baseline, sampler))
        ],
        "canvases": [{"tokens": length, **canvas(context, full, length)} for length in CANVASES],
        "free": {
            name: free_stories(dataclasses.replace(context, stored=each))
            for name, each in {"base": context.stored, **stored}.items()
        },
        "base_without_adapter_is_base": is_base,
        "training": training_costs(sections, context.stored, shards, metrics),
        "how": {"tasks": context.config.num_samples, "seed": TASK_SEED, "threads": torch.get_num_threads()},
    }  # fmt: skip


def denoisers(stored: dict[str, StoredDenoiser], sampler: SamplerConfig) -> Iterator[Writer]:
    """Yield each with the configured sampler, with one of few calls, and with the first draft alone."""
    few, draft = dataclasses.replace(sampler, steps=FEW_CALLS), dataclasses.replace(sampler, check=None)
    for name, each in stored.items():
        for chosen in (sampler, few, draft):
            yield Writer(name, name_of(chosen), denoising(each, chosen), each.config)


def autoregressive(stored: StoredBaseline, sampler: SamplerConfig) -> Iterator[Writer]:
    """Yield the baseline: any token may be drawn, or none below the cutoff."""
    how = {"end_id": stored.config.end_id, "temperature": sampler.temperature}
    for cutoff in (0.0, EPSILON_CUTOFF):
        sample = partial(sample_autoregressive, stored.baseline, **how, epsilon_cutoff=cutoff)
        yield Writer("autoregressive", f"a token a call, none below {cutoff:g}", sample, stored.config)


def answer(context: EvalContext, writer: Writer) -> dict[str, Any]:
    """Return what the answers to held-out tasks are like, and the first of them."""
    asked, texts = write_held_out(context, writer)
    shown = [{"instruction": each, "answer": text} for each, text in zip(asked, texts.words, strict=True)]
    return {**constraint_metrics(asked, texts.words), **quality(texts), "samples": shown[:SHOWN]}


def canvas(context: EvalContext, writer: Writer, length: int) -> Numbers:
    """Return what answers are like that may have `length` tokens: whether end tokens flood the room."""
    asked, texts = write_held_out(context, writer, length)
    return {"all_met": constraint_metrics(asked, texts.words)["all_met"], **quality(texts)}


def write_held_out(
    context: EvalContext, writer: Writer, length: int | None = None
) -> tuple[list[str], Texts]:
    """Return held-out instructions and answers to them."""
    config = context.config
    asked = [instruction for instruction, _ in islice(write_tasks(TASK_SEED), config.num_samples)]
    rng, tokenizer = np.random.default_rng(config.seed), context.shards.tokenizer
    texts = write_answers(writer.sample, writer.config, tokenizer, asked, rng, config.batch_rows, length)
    return asked, texts


def constraint_metrics(instructions: list[str], texts: list[str]) -> dict[str, Any]:
    """Return the share of texts that meet all constraints, and of each kind of constraint the share met."""
    judged = [judge_task(instruction, text) for instruction, text in zip(instructions, texts, strict=True)]
    kinds = sorted({kind for verdict in judged for kind in verdict})
    each = {kind: float(np.mean([verdict[kind] for verdict in judged if kind in verdict])) for kind in kinds}
    return {"all_met": float(np.mean([all(verdict.values()) for verdict in judged])), "met": each}


def free_stories(context: EvalContext) -> Numbers:
    """Return what stories are like that nobody asked for."""
    return quality(context.write_texts(context.sampler, context.config.num_samples, seed=1))


def quality(texts: Texts) -> Numbers:
    """Return consistency, variety and cost."""
    numbers = story_metrics(texts.words, SHORT) | text_metrics(texts.ids, texts.words)
    kept = ("stories_consistent", "sentences_valid", "unique", "entropy_corpus_nats", "tokens_per_sample")
    empty = sum(not words.strip() for words in texts.words) / len(texts)
    return {name: numbers[name] for name in kept} | {
        "empty": empty, "calls": texts.calls, "corrected": texts.corrected,
    }  # fmt: skip


@torch.no_grad()
def says_the_same(base: StoredDenoiser, other: StoredDenoiser) -> bool:
    """Say whether two denoisers give the same bits for a row of all tokens."""
    ids = torch.arange(base.config.vocab_size)[None]
    return torch.equal(base.denoiser.next_token_logits(ids), other.denoiser.next_token_logits(ids))


if __name__ == "__main__":
    main()
