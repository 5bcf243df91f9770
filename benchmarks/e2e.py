"""Restaurants described as told: SunFish and an autoregressive baseline that took as many operations.

python -m benchmarks.e2e --data FOLDER --folder runs/e2e        # what is trained already is kept

FOLDER holds train.jsonl and valid.jsonl, pairs of `instruction` and `response`. Both models are
pretrained on the responses alone, and then fine-tuned on the pairs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import sacrebleu

from benchmarks.record import composed, recipe_of
from benchmarks.slot_errors import false_hit_rate, slot_error_rate
from pipelines.baselines.autoregressive import sample_autoregressive
from pipelines.baselines.train import train
from pipelines.finetune.train import finetune
from sunfish.config.schema.sampler import SamplerConfig
from sunfish.errors import report_errors
from sunfish.evaluation.answers import SampleRows, denoising, write_answers
from sunfish.evaluation.context import name_of
from sunfish.files import read_json, write_json
from sunfish.model.baseline import read_baseline
from sunfish.model.pretrained import FolderConfig, read_denoiser
from sunfish.sharding.shard import shard
from sunfish.text.tokenizer import read_tokenizer
from sunfish.training.parallel import flushing_denormals
from sunfish.training.run import Job, Places, pretrain

TEMPERATURES = (1.0, 0.5, 0.1)
DRAFTS = (1, 2, 4, 8)  # steps of drafts that are not checked
CHECKED = ((2, 1), (4, 1), (4, 2), (8, None))  # steps of the first draft, and checks at most
SHOWN = 6
BOTH = ("data.tokenizer.vocab_size=2048", "data.row_length=128", "data.row_multiple=4", "tracking=off")
PRETRAINING = ("pretrain.steps=4000",)
FINETUNING = ("pretrain.steps=3000", "pretrain.optim.muon_lr=0.02", "pretrain.optim.adamw_lr=3e-3")

Params = dict[str, Any]
Pair = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Study:
    """Where the data are, where all is kept, and what else is configured."""

    data: Path
    folder: Path
    overrides: list[str]

    def pairs(self) -> Params:
        """Return the configuration of the fine-tuning, with a tokenizer of the pairs' words."""
        return self._composed(
            "tasks", "data.tokenizer.pretrained=null", "data.tokenizer.unit=words", *FINETUNING
        )

    def responses(self) -> Params:
        """Return the configuration of the pretraining, with the same tokenizer."""
        tokenizer = f"data.tokenizer.pretrained={(self.folder / 'tasks').resolve()}"
        column = "data.sources.files.text_column=response"
        return self._composed("files", column, "data.rows=documents", tokenizer, *PRETRAINING)

    def _composed(self, data: str, *overrides: str) -> Params:
        paths = f"data.sources.{data}.paths=[{(self.data / 'train.jsonl').resolve()}]"
        return composed(f"data={data}", paths, *BOTH, *overrides, *self.overrides)

    def held_out(self) -> dict[str, list[str]]:
        """Return the responses to each held-out instruction."""
        found: dict[str, list[str]] = {}
        for line in (self.data / "valid.jsonl").read_text(encoding="utf-8").splitlines():
            pair = json.loads(line)
            found.setdefault(pair["instruction"], []).append(pair["response"])
        return found


@report_errors
@flushing_denormals()
def main() -> None:
    """Make what is not there yet, and measure."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of train.jsonl and valid.jsonl")
    parser.add_argument("--folder", type=Path, default=Path("runs/e2e"))
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/e2e.json"))
    parser.add_argument("--only", choices=[*MADE], help="make this one, and do not measure")
    parser.add_argument("overrides", nargs="*", help="of the configuration, e.g. pretrain.steps=2000")
    arguments = parser.parse_args()
    study = Study(arguments.data, arguments.folder, arguments.overrides)
    for name in MADE if arguments.only is None else [arguments.only]:
        if not (study.folder / name).exists():
            MADE[name](study, study.folder / name)
    if arguments.only is None:
        write_json(arguments.out, measure(study))


def make_shards(params: Params, out: Path) -> None:
    """Shard documents or pairs."""
    shard(params["data"], params["launch"].sharding, out, out.parent / "runs")


def places(out: Path, shards: str) -> Places:
    """Return where a training reads and writes."""
    metrics, curve = out.with_suffix(".json"), out.with_suffix(".csv")
    return Places(out.parent / shards, out, metrics, curve, out.parent / "runs")


def make_base(study: Study, out: Path) -> None:
    """Pretrain on the responses."""
    params = study.responses()
    job = Job(params["data"], recipe_of(params), params["launch"], params["tracking"])
    pretrain(job, places(out, "responses"))


def make_baseline(study: Study, out: Path) -> None:
    """Pretrain the baseline on the responses, or fine-tune it on the pairs."""
    if out.name == "autoregressive_base":
        return train("autoregressive", study.responses(), out.parent / "responses", out)
    train("autoregressive", study.pairs(), out.parent / "tasks", out, out.parent / "autoregressive_base")


MADE: dict[str, Callable[[Study, Path], None]] = {
    "tasks": lambda study, out: make_shards(study.pairs(), out),
    "responses": lambda study, out: make_shards(study.responses(), out),
    "base": make_base,
    "full": lambda study, out: finetune("full", study.pairs(), out.parent / "base", places(out, "tasks")),
    "autoregressive_base": make_baseline,
    "autoregressive": make_baseline,
}


def measure(study: Study) -> dict[str, Any]:
    """Return how both models describe held-out restaurants, and what the matcher makes of people's words."""
    references = study.held_out()
    tokenizer, sampler = read_tokenizer(study.folder / "tasks"), study.pairs()["sampler"]
    rows, samples = [], {}
    for model, name, sample, config in writers(study.folder, sampler):
        texts = write_answers(sample, config, tokenizer, [*references], np.random.default_rng(0))
        numbers = {**scores(references, texts.words), "calls": texts.calls, "corrected": texts.corrected}
        rows.append({"model": model, "sampler": name, **numbers, "seconds": texts.seconds})
        samples[f"{model}, {name}"] = texts.words[:SHOWN]
    return {
        "rows": rows,
        "people": people(references),
        "training": {name: read_json(study.folder / f"{name}.json") for name in ("base", "full")},
        "instructions": [*references][:SHOWN],
        "samples": samples,
    }


def writers(folder: Path, sampler: SamplerConfig) -> Iterator[tuple[str, str, SampleRows, FolderConfig]]:
    """Yield models with samplers; answers have the median length of those to such an instruction."""
    full, baseline = read_denoiser(folder / "full"), read_baseline(folder / "autoregressive")
    for temperature in TEMPERATURES:
        for each in samplers(dataclasses.replace(sampler, temperature=temperature)):
            name = f"{name_of(each)}{at_most(each)}, T {temperature:g}"
            yield "sunfish", name, denoising(full, each), with_medians(full.config)
        how = {"end_id": baseline.config.end_id, "temperature": temperature}
        sample = partial(sample_autoregressive, baseline.baseline, **how)
        yield "autoregressive", f"a token a call, T {temperature:g}", sample, with_medians(baseline.config)


def samplers(sampler: SamplerConfig) -> Iterator[SamplerConfig]:
    """Yield drafts alone, and drafts with few checks or as many as they need."""
    for steps in DRAFTS:
        yield dataclasses.replace(sampler, steps=steps, check=None)
    for steps, most in CHECKED:
        assert sampler.check is not None
        check = dataclasses.replace(sampler.check, max_rounds=most)
        yield dataclasses.replace(sampler, steps=steps, check=check)


def at_most(sampler: SamplerConfig) -> str:
    """Return how many checks a sampler takes at most, where that is told."""
    most = sampler.check and sampler.check.max_rounds
    return f", at most {most} times" if most else ""


def with_medians(config: FolderConfig) -> FolderConfig:
    """Return a configuration under which lengths are not drawn."""
    assert config.answers is not None
    return dataclasses.replace(config, answers=config.answers.medians())


def scores(references: dict[str, list[str]], texts: list[str]) -> dict[str, float]:
    """Return BLEU and chrF against all responses to each instruction, the slot error rate, and words."""
    most = max(map(len, references.values()))
    streams = [[(each + [None] * most)[k] for each in references.values()] for k in range(most)]
    return {
        "bleu": sacrebleu.corpus_bleu(texts, streams).score,
        "chrf": sacrebleu.corpus_chrf(texts, streams).score,
        "slot_error_rate": slot_error_rate([*references], texts),
        "words": float(np.mean([len(text.split()) for text in texts])),
        "unique": len(set(texts)) / len(texts),
    }


def people(references: dict[str, list[str]]) -> dict[str, float]:
    """Return what the matcher makes of people's responses: slots that it misses, and finds by mistake."""
    pairs = [(asked, text) for asked, texts in references.items() for text in texts]
    asked, texts = zip(*pairs, strict=True)
    return {"slot_error_rate": slot_error_rate(asked, texts), "false_hit_rate": false_hit_rate(asked, texts)}


if __name__ == "__main__":
    main()
