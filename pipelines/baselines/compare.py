"""SunFish beside its baselines, trained on the same rows with the same operations.

python -m pipelines.baselines.compare --denoiser models/denoiser --baselines models/baselines
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.baselines.contenders import FAMILIES, Contender, all_contenders, checked_name
from pipelines.baselines.loss import autoregressive_nats, masked_bound
from pipelines.baselines.page import draw_picture, write_page
from pipelines.baselines.train import equal_steps
from sunfish.config.compose import check
from sunfish.errors import UserError, report_errors
from sunfish.evaluation.context import EvalContext, Numbers, Texts, batches_of
from sunfish.evaluation.held_out import held_out_batches, likelihood_numbers, measure_bound, measure_causal
from sunfish.evaluation.quality import story_metrics, text_metrics
from sunfish.files import write_json
from sunfish.model.baseline import Kind, StoredBaseline, read_baseline
from sunfish.progress import Progress, track
from sunfish.training.cost import step_operations
from sunfish.training.parallel import flushing_denormals, keep_freed_memory

KINDS: tuple[Kind, ...] = ("masked", "autoregressive")
SHOWN_TEXTS = 3  # of each family's best row
SPEED_ROUNDS = 3
TIMED = ("DDIM 16", "DDPM 64, kept above 0.9", "ancestral 16", "ancestral 64", "a token a call")

Params = dict[str, Any]
Baselines = dict[Kind, StoredBaseline]


@report_errors
@flushing_denormals()
def main() -> None:
    """Sample with SunFish and both baselines; write the table, the picture and the page."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--shards", type=Path, default=Path("data/shards"))
    parser.add_argument("--denoiser", type=Path, default=Path("models/denoiser"))
    parser.add_argument(
        "--baselines",
        type=Path,
        default=Path("models/baselines"),
        help="folder of masked/ and autoregressive/",
    )
    parser.add_argument("--texts", type=int, default=500, help="of each row")
    parser.add_argument("--metrics", type=Path, default=Path("results/benchmarks/baselines.json"))
    parser.add_argument("--picture", type=Path, default=Path("results/benchmarks/baselines.png"))
    parser.add_argument("--page", type=Path, default=Path("results/baselines.html"))
    arguments = parser.parse_args()
    params = check(arguments.params)
    keep_freed_memory()
    context = EvalContext.read(
        arguments.denoiser, arguments.shards, params["data"], params["evaluate"], params["sampler"],
        "cuda" if torch.cuda.is_available() else "cpu",
    )  # fmt: skip
    baselines = {kind: read_own(arguments.baselines / kind, context) for kind in KINDS}
    results = compare(context, baselines, params, arguments.texts)
    write_json(arguments.metrics, results)
    draw_picture(arguments.picture, results)
    write_page(arguments.page, arguments.picture, results)


def read_own(folder: Path, context: EvalContext) -> StoredBaseline:
    """Read a baseline onto the denoiser's device.

    Raises:
        UserError: it cannot be read, or its tokenizer is not that of the shards.
    """
    stored = read_baseline(folder)
    if stored.tokenizer_sha256 != context.shards.manifest["tokenizer_sha256"]:
        raise UserError(f"{folder}: was trained with another tokenizer than the shards; train it again")
    stored.baseline.to(context.device)
    return stored


def compare(context: EvalContext, baselines: Baselines, params: Params, num_texts: int) -> dict[str, Any]:
    """Return all results as plain values."""
    contenders = all_contenders(
        context.stored, baselines["masked"], baselines["autoregressive"], params["sampler"]
    )
    rows, samples = [], {}
    for contender in contenders:
        numbers, texts = measure_row(context, baselines["autoregressive"], contender, num_texts)
        rows.append({"family": contender.family, "name": contender.name, **numbers})
        samples[len(rows) - 1] = texts.words[:SHOWN_TEXTS]
    timed = [
        contender for contender in contenders if contender.name in (*TIMED, checked_name(params["sampler"]))
    ]
    real = context.real_texts(min(num_texts, len(context.held_out)))
    return {
        "real": quality(context, real),
        "rows": rows,
        "held_out": measure_held_out(context, baselines),
        "speed": measure_speed(timed, context.stored.lengths.median),
        "training": measure_training(context, baselines, params),
        "samples": [{"row": row, "texts": texts} for row, texts in samples.items()],
        "how": {
            "texts": num_texts,
            "temperature": params["sampler"].temperature,
            "batch_rows": context.config.batch_rows,
            "device": context.device.type,
            "threads": torch.get_num_threads(),
        },
    }  # fmt: skip


def measure_row(
    context: EvalContext, judge: StoredBaseline, contender: Contender, num: int
) -> tuple[Numbers, Texts]:
    """Sample `num` texts, of the same drawn lengths for every contender, and return what they are like."""
    rng = np.random.default_rng((context.config.seed, 1))
    lengths = context.stored.lengths.draw(num, rng)
    rows: dict[int, list[int]] = {}
    calls = corrected = nats = seconds = 0.0
    with Progress(f"{FAMILIES[contender.family]}: {contender.name}", num, "texts") as progress:
        for batch in batches_of(lengths, context.config.batch_rows):
            started = time.perf_counter()
            sampled = contender.sample(len(batch), int(lengths[batch[0]]), rng)
            seconds += time.perf_counter() - started
            calls, corrected = calls + sampled.calls.sum(), corrected + sampled.corrected.sum()
            nats += float(autoregressive_nats(judge.baseline, to_tensor(context, sampled.ids)).sum())
            rows |= zip(batch.tolist(), context.cut(sampled.ids), strict=True)
            progress.add(len(batch))
    texts = context.texts([rows[index] for index in range(num)])
    tokens = sum(len(row) + 1 for row in texts.ids)
    taken = {"calls": calls / num, "corrected": corrected / num, "seconds_per_text": seconds / num}
    judged = {"judged_nats_per_token": nats / tokens}  # by the autoregressive baseline
    return {**quality(context, texts), **judged, **{key: float(value) for key, value in taken.items()}}, texts


def quality(context: EvalContext, texts: Texts) -> Numbers:
    """Return what can be said of any texts."""
    stories = story_metrics(texts.words, context.grammar) if context.grammar else {}
    return {**stories, **text_metrics(texts.ids, texts.words)}


def measure_held_out(context: EvalContext, baselines: Baselines) -> dict[str, Numbers]:
    """Return held-out nats per token: bounds of what denoises or unmasks, exact ones of causal passes."""
    results = {"sunfish, bound": measure_bound(context)[1]}
    if context.stored.config.can_check:
        results["sunfish's check, exact"] = measure_causal(context)
    rng, separator = np.random.default_rng((context.config.seed, 0)), context.held_out.between
    masked, autoregressive = baselines["masked"].baseline, baselines["autoregressive"].baseline
    levels = context.config.bound_levels
    measures: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "masked, bound": lambda ids: masked_bound(masked, ids, levels, rng, separator),
        "masked's check, exact": lambda ids: autoregressive_nats(masked, ids, separator),
        "autoregressive, exact": lambda ids: autoregressive_nats(autoregressive, ids, separator),
    }
    if not baselines["masked"].config.can_check:
        del measures["masked's check, exact"]
    for name, measure in measures.items():
        nats = np.concatenate(list(row_nats(context, name, measure)))
        results[name] = likelihood_numbers(context, nats)
    return results


def row_nats(
    context: EvalContext, name: str, measure: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[np.ndarray]:
    """Yield -log p of held-out rows, that of their lengths included, (rows,) in nats, batch by batch."""
    batches = held_out_batches(context)
    for ids in track(batches, name, "batches", len(batches)):
        lengths = context.stored.lengths.nats(np.full(len(ids), ids.shape[1]))
        yield measure(to_tensor(context, ids)).double().cpu().numpy() + lengths


def measure_speed(contenders: list[Contender], length: int) -> list[dict[str, Any]]:
    """Return the seconds of a text of `length` tokens, alone and as one of 32; all in turn, medians."""
    seconds: dict[tuple[int, int], list[float]] = {}
    for round_ in range(SPEED_ROUNDS + 1):  # of which the first one warms up
        for index, contender in enumerate(contenders):
            for num in (1, 32):
                started = time.perf_counter()
                contender.sample(num, length, np.random.default_rng(round_))
                taken = (time.perf_counter() - started) / num
                seconds.setdefault((index, num), []).extend([taken] if round_ else [])
    return [
        {"family": each.family, "name": each.name, "length": length,
         **{f"seconds_per_text_batch_{num}": statistics.median(seconds[index, num]) for num in (1, 32)}}
        for index, each in enumerate(contenders)
    ]  # fmt: skip


def measure_training(
    context: EvalContext, baselines: Baselines, params: Params
) -> dict[str, dict[str, float]]:
    """Return steps, operations and parameters of each training."""
    model, diffusion, pretrain = params["model"], params["diffusion"], params["pretrain"]
    vocab, length = context.shards.vocab_size, context.stored.lengths.median
    operations = pretrain.steps * step_operations(model, diffusion, vocab, pretrain.batch_rows, length)
    steps = {kind: equal_steps(kind, model, diffusion, pretrain.steps, vocab, length) for kind in KINDS}
    models = {kind: stored.baseline for kind, stored in baselines.items()}
    return {
        name: {
            "steps": count,
            "rows_per_step": pretrain.batch_rows,
            "operations": operations,
            "parameters": sum(p.numel() for p in network.parameters()),
        }
        for name, count, network in (
            ("sunfish", pretrain.steps, context.stored.denoiser),
            *((kind, steps[kind], models[kind]) for kind in KINDS),
        )
    }


def to_tensor(context: EvalContext, ids: np.ndarray) -> torch.Tensor:
    """Return ids on the models' device."""
    return torch.from_numpy(ids).to(context.device)


if __name__ == "__main__":
    main()
