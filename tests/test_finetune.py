"""Fine-tuning: an adapter is PEFT's, its base stays, and an interrupted run ends as a whole one."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.told_tables import task_tables
from pipelines.baselines.train import train
from pipelines.finetune.evaluate import compare
from pipelines.finetune.train import finetune
from sunfish.config.compose import compose
from sunfish.config.schema.sources import StoryTasks
from sunfish.errors import UserError
from sunfish.evaluation.answers import denoising, write_answers
from sunfish.evaluation.context import EvalContext
from sunfish.files import read_json, sha256, write_json
from sunfish.model.adapter import merge_adapter, read_adapted, target_names, with_adapter
from sunfish.model.denoiser import Denoiser
from sunfish.model.pretrained import read_denoiser
from sunfish.text.shards import Shards
from sunfish.text.tokenizer import instruction_ids
from sunfish.training import loop
from sunfish.training.finetune import require_fit
from sunfish.training.run import Places
from tests.builders import CHECKED, OFF, ROOT, THIMBLE, make_denoiser, make_shards

ASKED = ["write a story", "write"]


@pytest.fixture(scope="module")
def tasks(params: dict, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The thimble's sections for story tasks, with the base's tokenizer; `shards` and `base` are folders."""
    folder, base = tmp_path_factory.mktemp("tasks") / "shards", trained / "denoiser"
    vocab_size = read_denoiser(base).config.vocab_size
    tokenizer = dataclasses.replace(params["data"].tokenizer, pretrained=str(base), vocab_size=vocab_size)
    source = StoryTasks(kind="story_tasks", grammar="short", num_documents=120, seed=3, weight=None)
    section = dataclasses.replace(
        params["data"], sources={"tasks": source}, tokenizer=tokenizer, rows="tasks", row_length=160
    )
    lora = dataclasses.replace(params["lora"], dropout=0.1)
    made = params | {"data": section, "tracking": OFF, "lora": lora}
    make_shards(made, folder)
    return made | {"shards": folder, "base": base}


def run(method: str, tasks: dict[str, Any], folder: Path) -> Path:
    """Fine-tune into `folder` and return what was written."""
    places = Places(
        tasks["shards"], folder / method, folder / "metrics.json", folder / "curve.csv", folder / "runs"
    )
    finetune(method, tasks, tasks["base"], places)
    return folder / method


@pytest.fixture(scope="module")
def adapter(tasks: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run("lora", tasks, tmp_path_factory.mktemp("lora"))


def logits_of(denoiser: Denoiser) -> torch.Tensor:
    ids, nothing = torch.arange(40)[None], torch.zeros(1, 40, denoiser.config.emb_dim)
    with torch.no_grad():
        denoised = denoiser(denoiser.embed(ids), torch.zeros(1), nothing, torch.zeros(1, 40).bool())
        return torch.cat((denoiser.next_token_logits(ids), denoised.logits))


def test_an_adapter_is_peft_s_and_its_base_stays(tasks: dict[str, Any], adapter: Path) -> None:
    base = read_denoiser(tasks["base"])
    adapted, model = read_adapted(tasks["base"], adapter)
    theirs = peft.PeftModel.from_pretrained(read_denoiser(tasks["base"]).denoiser, str(adapter))
    assert torch.equal(logits_of(adapted.denoiser), logits_of(theirs.get_base_model()))
    assert not torch.equal(logits_of(adapted.denoiser), logits_of(base.denoiser))
    with model.disable_adapter():
        assert torch.equal(logits_of(adapted.denoiser), logits_of(base.denoiser))
    names = load_file(adapter / "adapter_model.safetensors")
    assert {name.split(".")[-2] for name in names} == {"lora_A", "lora_B"}
    numbers = read_json(adapter.parent / "metrics.json")
    assert numbers["learning_bytes"] == pytest.approx(12 * numbers["trained_parameters"], rel=0.01)


def test_several_adapters_stand_over_one_base(tasks: dict[str, Any], adapter: Path) -> None:
    adapted, model = read_adapted(tasks["base"], adapter)
    first = logits_of(adapted.denoiser)
    model.add_adapter("second", model.peft_config["default"])
    model.set_adapter("second")
    assert torch.equal(logits_of(adapted.denoiser), logits_of(read_denoiser(tasks["base"]).denoiser))
    model.set_adapter("default")
    assert torch.equal(logits_of(adapted.denoiser), first)


def test_merging_is_exact_and_done_once(tasks: dict[str, Any], adapter: Path, tmp_path: Path) -> None:
    merge_adapter(tasks["base"], adapter, tmp_path / "merged")
    merged, (adapted, _) = read_denoiser(tmp_path / "merged"), read_adapted(tasks["base"], adapter)
    ours, theirs = logits_of(merged.denoiser), logits_of(adapted.denoiser)
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-6
    assert merged.config.answers == adapted.config.answers is not None
    assert merged.lengths == read_denoiser(tasks["base"]).lengths
    with pytest.raises(UserError, match="is fine-tuned already, or has an adapter merged"):
        merge_adapter(tmp_path / "merged", adapter, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_an_adapter_of_another_base_or_altered_is_refused(
    tasks: dict[str, Any], adapter: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(adapter, tmp_path / "other")
    values = read_json(other / "sunfish.json")
    write_json(other / "sunfish.json", values | {"base_sha256": "0" * 64})
    with pytest.raises(UserError, match="sunfish.json: is not what digests.json says"):
        read_adapted(tasks["base"], other)
    digests = read_json(other / "digests.json")
    write_json(other / "digests.json", digests | {"sunfish.json": sha256(other / "sunfish.json")})
    with pytest.raises(UserError, match="is not the base that .*other was trained over"):
        read_adapted(tasks["base"], other)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_an_interrupted_run_ends_as_one_that_was_not(
    method: str, tasks: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(method, tasks, tmp_path / "whole")
    step: Callable[..., Any] = loop.train_step

    def interrupted(training: Any, *rest: Any) -> Any:
        if training.step == 9:
            raise KeyboardInterrupt
        return step(training, *rest)

    monkeypatch.setattr(loop, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(method, tasks, tmp_path / "cut")
    monkeypatch.setattr(loop, "train_step", step)
    resumed = run(method, tasks, tmp_path / "cut")
    name = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    ours, theirs = load_file(resumed / name), load_file(whole / name)
    assert set(ours) == set(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_answers_are_written_in_the_room_of_a_row(tasks: dict[str, Any], adapter: Path) -> None:
    adapted, _ = read_adapted(tasks["base"], adapter)
    how = denoising(adapted, CHECKED), adapted.config, Shards(tasks["shards"]).tokenizer
    tokenizer, rng = how[2], np.random.default_rng(0)
    texts = write_answers(*how, ASKED, rng)
    answers = adapted.config.answers
    assert answers is not None and texts.calls > 0
    rooms = [answers.behind(len(instruction_ids(tokenizer, asked))).longest for asked in ASKED]
    assert all(len(ids) <= room for ids, room in zip(texts.ids, rooms, strict=True))
    short = write_answers(*how, ASKED, rng, length=5)
    assert all(len(ids) <= 5 for ids in short.ids)
    with pytest.raises(UserError, match="leaves no room in rows of"):
        write_answers(*how, ["write " * 160], rng)
    with pytest.raises(UserError, match="takes no instructions"):
        write_answers(how[0], read_denoiser(tasks["base"]).config, tokenizer, ["write"], rng)


def test_models_are_compared_and_the_page_is_written(
    tasks: dict[str, Any], adapter: Path, params: dict, shards: Shards, tmp_path: Path
) -> None:
    run("full", tasks, tmp_path)
    shutil.copytree(adapter, tmp_path / "lora")
    (tmp_path / "metrics.json").rename(tmp_path / "full.json")
    shutil.copyfile(adapter.parent / "metrics.json", tmp_path / "lora.json")
    train("autoregressive", tasks, tasks["shards"], tmp_path / "base")
    train("autoregressive", tasks, tasks["shards"], tmp_path / "autoregressive", tmp_path / "base")
    base = tasks["base"], shards.folder, params["data"]
    context = EvalContext.read(*base, params["evaluate"], params["sampler"])
    results = compare(context, tasks, tmp_path, tasks["shards"], tmp_path)
    assert results["base_without_adapter_is_base"] and set(results["free"]) == {"base", "full", "lora"}
    assert [row["model"] for row in results["tasks"]] == 3 * ["full"] + 3 * ["lora"] + 2 * ["autoregressive"]
    assert all(row["tokens_per_sample"] <= row["tokens"] for row in results["canvases"])
    page = task_tables(json.loads(json.dumps(results)))
    assert "| LoRA, ddpm-categorical-3-checked |" in page and "8 held-out tasks" in page


def test_bad_settings_are_refused(tasks: dict[str, Any], params: dict, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lora.rank = 99: is above the model's width of 32"):
        with_adapter(make_denoiser(), dataclasses.replace(tasks["lora"], rank=99))
    with pytest.raises(UserError, match=r"lora.target_modules = attn.qkv: .* did you mean 'attention.qkv'\?"):
        target_names(make_denoiser(), ("attn.qkv",))
    assert "head" in target_names(make_denoiser(), ("all-linear",))
    assert "head" not in target_names(make_denoiser(tied_head=False), ("all-linear",))
    with pytest.raises(UserError, match="data.rows = documents: must be tasks"):
        run("full", tasks | {"data": params["data"]}, tmp_path)


def test_a_base_that_does_not_fit_is_refused(tasks: dict[str, Any], params: dict, tmp_path: Path) -> None:
    stored = read_denoiser(tasks["base"])
    never = dataclasses.replace(stored, config=dataclasses.replace(stored.config, can_check=False))
    with pytest.raises(UserError, match="never learned to check"):
        require_fit(never, tasks["shards"], params["diffusion"])
    require_fit(never, tasks["shards"], dataclasses.replace(params["diffusion"], check_weight=0.0))
    shutil.copyfile(tasks["shards"] / "manifest.json", tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match="has another tokenizer than"):
        require_fit(stored, tmp_path, params["diffusion"])


SCRIPT = """
import dataclasses, sys
from pathlib import Path
from sunfish.config.compose import check
from pipelines.finetune.train import finetune
from sunfish.training.run import Places
params, base, shards, out = map(Path, sys.argv[1:])
sections = check(params)
data = dataclasses.replace(sections["data"], rows="tasks", row_length=160)
places = Places(shards, out / "lora", out / "m", out / "c", out / "r")
finetune("lora", sections | {"data": data}, base, places)
"""


@pytest.mark.slow
def test_an_adapter_is_trained_in_shards_as_by_one_process(tasks: dict[str, Any], tmp_path: Path) -> None:
    found = []
    for name, launch in (("one", []), ("two", ["launch.devices=2", "launch.strategy=fsdp"])):
        folder = tmp_path / name
        folder.mkdir()
        exact = ["launch.precision=32-true", "launch.num_threads=1", "lora.rank=4"]
        compose([*THIMBLE, *exact, *launch], folder / "params.yaml")
        (folder / "run.py").write_text(SCRIPT)
        command = [sys.executable, folder / "run.py", folder / "params.yaml", tasks["base"], tasks["shards"]]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([*command, folder], check=True, capture_output=True, timeout=500, env=environment)
        found.append(load_file(folder / "lora" / "adapter_model.safetensors"))
    assert set(found[0]) == set(found[1])
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], atol=1e-4, rtol=1e-3)
