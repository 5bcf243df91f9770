"""How well a denoiser writes what it is told, and what it has forgotten: full fine-tuning beside an adapter.

python -m pipelines.finetune.evaluate --full models/finetuned/full --adapter models/finetuned/lora
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sunfish.config.compose import read_section
from sunfish.config.schema.sampler import SamplerConfig
from sunfish.errors import report_errors
from sunfish.evaluation.answers import write_answers
from sunfish.evaluation.context import EvalContext, Numbers, Texts, name_of
from sunfish.evaluation.quality import story_metrics, text_metrics
from sunfish.files import read_json, write_json
from sunfish.model.adapter import read_adapted
from sunfish.model.pretrained import StoredDenoiser, read_denoiser
from sunfish.text.lexicon import SHORT
from sunfish.text.tasks import judge_task, write_tasks
from sunfish.training.parallel import flushing_denormals

TASK_SEED = 2**32  # no corpus is written from so large a seed
SHOWN = 8
FEW_CALLS = 2  # steps of a first draft


@report_errors
@flushing_denormals()
def main() -> None:
    """Answer held-out story tasks with both models, write free stories with all three, and measure."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--params", type=Path, default=Path("pipelines/finetune/params.yaml"))
    parser.add_argument("--base", type=Path, default=Path("models/denoiser"))
    parser.add_argument("--base-params", type=Path, default=Path("params.yaml"), help="of the base's shards")
    parser.add_argument("--base-shards", type=Path, default=Path("data/shards"))
    parser.add_argument("--full", type=Path, required=True, help="a denoiser of which all weights learned")
    parser.add_argument("--adapter", type=Path, required=True, help="an adapter over the base")
    parser.add_argument("--training", type=Path, nargs=2, required=True, help="final numbers: full, adapter")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/finetune.json"))
    arguments = parser.parse_args()
    data = read_section(arguments.base_params, "data")
    config, sampler = (read_section(arguments.params, name) for name in ("evaluate", "sampler"))
    context = EvalContext.read(arguments.base, arguments.base_shards, data, config, sampler)
    adapted, model = read_adapted(arguments.base, arguments.adapter)
    with model.disable_adapter():
        is_base = says_the_same(context.stored, adapted)
    models = {"full": read_denoiser(arguments.full), "lora": adapted}
    results = {
        "tasks": [
            {"model": name, "sampler": name_of(sampler), **answer(context, stored, sampler)}
            for name, stored in models.items()
            for sampler in samplers_of(context.sampler)
        ],
        "free": {
            name: free_stories(dataclasses.replace(context, stored=stored))
            for name, stored in {"base": context.stored, **models}.items()
        },
        "base_without_adapter_is_base": is_base,
        "training": {
            name: read_json(path) for name, path in zip(models, arguments.training, strict=True)
        },
        "how": {"tasks": config.num_samples, "task_seed": TASK_SEED, "threads": torch.get_num_threads()},
    }  # fmt: skip
    write_json(arguments.out, results)


def samplers_of(sampler: SamplerConfig) -> Iterator[SamplerConfig]:
    """Yield the configured sampler, one of few calls, and the first draft alone."""
    yield sampler
    yield dataclasses.replace(sampler, steps=FEW_CALLS)
    yield dataclasses.replace(sampler, check=None)


def answer(context: EvalContext, stored: StoredDenoiser, sampler: SamplerConfig) -> dict[str, Any]:
    """Return what the answers to held-out tasks are like, and the first of them."""
    tasks = list(islice(write_tasks(TASK_SEED), context.config.num_samples))
    asked, rng = [instruction for instruction, _ in tasks], np.random.default_rng(context.config.seed)
    tokenizer, plan = context.shards.tokenizer, context.plan(sampler)
    texts = write_answers(stored, tokenizer, plan, asked, rng, context.config.batch_rows)
    shown = [{"instruction": each, "answer": text} for each, text in zip(asked, texts.words, strict=True)]
    return {**constraint_metrics(asked, texts.words), **quality(texts), "samples": shown[:SHOWN]}


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
