"""Each lever of the recipe on and off, at equal steps, over several seeds: one command, a line of `ablation.json` a training.

python -m benchmarks.ablation [--seeds 0 1 2] [--steps 9000] [--only "no output prior" ...] [--judge models/twins/autoregressive]
                              [--on data=files data.tokenizer.vocab_size=4096 ...]

It trains by the pretraining stage itself, on the shards that are there, and judges by the evaluation's own parts. What is done already, by
the recipe as it is now, is not done again, so it can be interrupted. Three seeds of everything take some five hours on two cores.

Texts are judged at temperature 0.8, 500 of them, unless `--on` says otherwise. Other data than the default's: give as `--on` what its
shards were made with, and `--shards`. A lever that stands there already, as some do on real text, makes no training of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from sunfish.config import check, compose
from sunfish.evaluation.held_out import measure_bound
from sunfish.evaluation.subject import Subject
from sunfish.files import read_json, write_json
from sunfish.problems import Problem, report_problems

JUDGED = ["evaluate.temperature=0.8", "evaluate.num_samples=500"]  # as all recorded trainings are
IN_TURN = ["evaluate.infill_candidates=1", "export.sampler_candidates=1"]
ALL_AT_ONCE = [*IN_TURN, "model.told_length=true", "diffusion.blocks=null", "evaluate.sampler=ancestral", "evaluate.window_steps=100"]
ALL_AT_ONCE += ["evaluate.bound_together=null", "export.sampler_name=ancestral"]
LEVERS: dict[str, list[str]] = {
    "default": [],
    "not told the word before": ["model.told_before=false"],
    "no output prior": ["model.output_prior=false"],
    "told how long the text is": ["model.told_length=true"],
    "a head of its own": ["model.tied_head=false"],
    "a tied head": ["model.tied_head=true"],
    "embeddings of 16": ["model.emb_dim=16"],
    "embeddings of 32": ["model.emb_dim=32"],
    "embeddings of 128": ["model.emb_dim=128"],
    "2 heads": ["model.num_heads=2"],
    "next tokens not learned": ["diffusion.blocks.next_token=0.0", "diffusion.blocks.noisy_share=1.0", *IN_TURN],
    "next tokens count once": ["diffusion.blocks.next_token=1.0"],
    "next tokens count four times": ["diffusion.blocks.next_token=4.0"],
    "next tokens count eight times": ["diffusion.blocks.next_token=8.0"],
    "a noisy copy of every row": ["diffusion.blocks.noisy_share=1.0"],
    "a noisy copy of every fourth row": ["diffusion.blocks.noisy_share=0.25"],
    "noise alone in a fifth of the blocks": ["diffusion.blocks.blind_share=0.2"],
    "noise alone in half of the blocks": ["diffusion.blocks.blind_share=0.5"],
    "blocks to 4": ["diffusion.blocks.size_max=4"],
    "blocks to 6": ["diffusion.blocks.size_max=6"],
    "blocks to 12": ["diffusion.blocks.size_max=12"],
    "random order": ["model.told_length=true", "diffusion.blocks.order=random", "evaluate.order=random", "export.sampler_order=random"],
    "first estimates in a quarter": ["diffusion.self_conditioning=0.25"],
    "given in two fifths": ["diffusion.known.row_share=0.4"],
    "given in a fifth": ["diffusion.known.row_share=0.2"],
    "nothing given": ["diffusion.known.row_share=0.0"],
    "cosine law": ["diffusion.law.kind=cosine"],
    "no averaging": ["pretrain.ema_decay=0.0"],
    "AdamW alone": ["pretrain.optim.muon_lr=null"],
    "AdamW alone, at a third": ["pretrain.optim.muon_lr=null", "pretrain.optim.adamw_lr=1.5e-3"],
    "AdamW alone, at twice": ["pretrain.optim.muon_lr=null", "pretrain.optim.adamw_lr=9e-3"],
    "half the rates": ["pretrain.optim.muon_lr=0.015", "pretrain.optim.adamw_lr=2.25e-3"],
    "all words at once": ALL_AT_ONCE,
    "all at once, eps_mse, cosine law": ["experiment=founding", "diffusion.law.kind=cosine"],
}  # fmt: skip
NOT_MEASURED = ("frontier", "infill", "shown", "speed")  # what the evaluation's settings say of what is not looked at here
ONE_STEP_ROWS = 2000  # of a walk of one step a word: tells levers apart where consistent stories do not
EXCESS = ("excess_nats_per_row", "excess_nats_per_row_standard_error")
SHOWN = (
    "sentences_valid",
    "stories_consistent",
    "entropy_corpus_nats",
    "forms_total_variation",
    "objects_total_variation",
    "people_total_variation",
    "calls_per_text",
    "judged_perplexity",
    "mauve",
)


@report_problems
def main() -> None:
    """Train and judge what is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, default=Path("data/shards"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/ablation.json"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="[default: the configured ones]")
    parser.add_argument("--only", nargs="+", default=list(LEVERS), help="levers by name")
    parser.add_argument("--on", nargs="+", default=[], metavar="SETTING", help="settings of all trainings, before a lever's")
    parser.add_argument("--judge", help="`evaluate.judge`, who tells perplexity and MAUVE of each [default: nobody]")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.only if name not in LEVERS]
    if unknown:
        raise Problem(f"--only {unknown[0]!r}: no such lever; there are {', '.join(map(repr, LEVERS))}")
    done: list[dict[str, Any]] = read_json(arguments.out)["trainings"] if arguments.out.is_file() else []
    judge = [f"evaluate.judge={arguments.judge}"] if arguments.judge else []
    for seed in arguments.seeds:
        for name in arguments.only:
            common = [f"pretrain.seed={seed}", "tracking=off", *judge]
            common += [f"pretrain.steps={arguments.steps}"] if arguments.steps else []
            told = [*JUDGED, *arguments.on, *LEVERS[name], *common]
            recipe = digest_recipe(told)
            if any((row["told"], row["recipe"]) == (told, recipe) for row in done):
                continue
            if LEVERS[name] and recipe == digest_recipe([*JUDGED, *arguments.on, *common]):
                print(f"{name}: stands in the default already", flush=True)
                continue
            print(f"{name}, seed {seed}", flush=True)
            row = {"lever": name, "seed": seed, "told": told, "recipe": recipe, **train_and_judge(told, arguments.shards)}
            done = [other for other in done if other["told"] != told] + [row]  # one of an earlier recipe makes room
            write_json(arguments.out, {"trainings": done})


def digest_recipe(told: list[str]) -> str:
    """Return a digest of all that decides a training and how it is judged: a default that changes makes another recipe."""
    with tempfile.TemporaryDirectory() as folder:
        compose(told, Path(folder) / "params.yaml")
        composed = yaml.safe_load((Path(folder) / "params.yaml").read_text())
    decides = {name: composed[name] for name in ("data", "model", "diffusion", "pretrain")}
    decides["evaluate"] = {name: value for name, value in composed["evaluate"].items() if not name.startswith(NOT_MEASURED)}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def train_and_judge(told: list[str], shards: Path) -> dict[str, Any]:
    """Return one training's numbers."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        compose(told, folder / "params.yaml")
        outputs = {"out": "denoiser", "metrics": "pretrain.json", "curve": "curve.csv", "runs": "runs"}
        places = [word for name, file in outputs.items() for word in (f"--{name}", str(folder / file))]
        command = [sys.executable, "-m", "stages.pretrain", "--params", str(folder / "params.yaml"), "--shards", str(shards), *places]
        subprocess.run(command, check=True)
        params = check(folder / "params.yaml")
        trained = read_json(folder / "pretrain.json")
        subject = Subject.read(folder / "denoiser", shards, params["data"], params["evaluate"]).with_judge()
        judged = subject.judge(subject.write_texts(subject.section.num_samples, seed=1), near=True)
        bound = measure_bound(subject)[1] if params["diffusion"].objective in ("ce", "elbo") else {}
        one_step = measure_bound(subject.told(bound_rows=ONE_STEP_ROWS), 0)[1] if subject.section.window_steps == 1 else {}
    kept = {key: bound[key] for key in ("nats_per_token", "nats_per_token_standard_error", "bound_over_entropy") if key in bound}
    kept |= {f"one_step_{key}": one_step[key] for key in ("nats_per_token", *EXCESS) if key in one_step}
    taken = {key: trained[key] for key in ("steps", "parameters", "rows_per_second")}
    return {**kept, **{key: judged[key] for key in SHOWN if key in judged}, **taken}


if __name__ == "__main__":
    main()
