"""The comparators must be right too: causal and exact where they say so, and their bound a bound."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from benchmarks.puzzles import behind_prompt
from pipelines.baselines.autoregressive import sample_autoregressive
from pipelines.baselines.loss import (
    BaselineLoss,
    autoregressive_nats,
    draw_masked,
    masked_bound,
    without_scattered,
)
from pipelines.baselines.page import COLUMNS, draw_picture, verdict, write_page
from pipelines.baselines.train import baseline_operations, equal_steps, train
from sunfish.diffusion.conditioning import StepRandomness, draw_randomness
from sunfish.errors import UserError
from sunfish.model.baseline import (
    is_baseline,
    make_baseline,
    read_baseline,
)
from sunfish.sampling.loop import Conditioning
from sunfish.text.layouts import answer_weights
from sunfish.training.cost import step_operations
from tests.baselines import DIFFUSION, END, KNOWN, LENGTH, MODEL, VOCAB, scrambled, stored

ROOT = Path(__file__).parent.parent


def nothing_known(times: np.ndarray, length: int) -> StepRandomness:
    rows = len(times)
    return StepRandomness(times, np.zeros((rows, length), bool), np.zeros(rows, bool), 0, rows)


@pytest.mark.parametrize("kind", ["autoregressive", "masked"])
def test_the_causal_pass_sees_nothing_that_comes_later(kind: str) -> None:
    baseline, ids = scrambled(kind), torch.arange(LENGTH)[None] % VOCAB
    changed = ids.clone()
    changed[0, 5] = 9
    differ = (baseline.next_token_logits(ids) != baseline.next_token_logits(changed)).any(dim=-1)[0]
    assert not differ[:6].any() and differ[6:].all()
    both = (baseline(ids) != baseline(changed)).any(dim=-1)[0]
    assert bool(both[:5].any()) == (kind == "masked")


def test_documents_of_a_row_do_not_attend_to_each_other() -> None:
    ids, document = torch.arange(LENGTH)[None] % VOCAB, torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]])
    changed = ids.clone()
    changed[0, 1] = 9
    baseline = scrambled("masked")
    differ = (baseline(ids, document) != baseline(changed, document)).any(dim=-1)[0]
    assert differ[:3].any() and not differ[3:].any()


@pytest.mark.parametrize("num_times", [1, 7])
def test_a_uniform_predictor_pays_log_v_for_each_token(num_times: int) -> None:
    """Before training all tokens are alike: the exact -log p and, on average, the bound are L log V."""
    ids = torch.randint(VOCAB, (4000, LENGTH))
    exact = autoregressive_nats(make_baseline(MODEL, VOCAB, "autoregressive", 0), ids)
    assert exact.numpy() == pytest.approx(LENGTH * math.log(VOCAB), rel=1e-5)
    bound = masked_bound(make_baseline(MODEL, VOCAB, "masked", 0), ids, num_times, np.random.default_rng(0))
    assert float(bound.mean()) == pytest.approx(LENGTH * math.log(VOCAB), rel=0.05)


@pytest.mark.parametrize("kind, total", [("autoregressive", 1.0), ("masked", 1.0 + 4.0)])
def test_the_loss_of_a_uniform_predictor_counts_each_pass(kind: str, total: float) -> None:
    loss = BaselineLoss(make_baseline(MODEL, VOCAB, kind, 0), check_weight=4.0)
    ids = np.random.default_rng(0).integers(VOCAB, size=(2000, LENGTH))
    times = np.linspace(0.05, 1.0, 2000)
    assert loss(ids, nothing_known(times, LENGTH)).item() == pytest.approx(total * math.log(VOCAB), rel=0.03)


def test_a_prompt_has_no_loss_and_is_read() -> None:
    baseline, ids = scrambled("autoregressive"), np.random.default_rng(0).integers(VOCAB, size=(6, LENGTH))
    baseline.zero_grad()
    randomness = nothing_known(np.ones(6), LENGTH)
    losses = [BaselineLoss(baseline, 0.0, weights=partial(behind_prompt, n)) for n in (0, 3)]
    whole, rest = (loss(ids, randomness) for loss in losses)
    nats = baseline.nats(baseline.hidden(torch.from_numpy(ids)), torch.from_numpy(ids), torch.ones(6, LENGTH))
    assert whole.item() == pytest.approx(nats.mean().item(), rel=1e-5)
    assert rest.item() == pytest.approx(nats[:, 3:].sum().item() / ids.size, rel=1e-5)


def test_of_a_task_the_answer_alone_is_learned_and_written_to_its_own_end() -> None:
    baseline, asked = scrambled("autoregressive"), [3, END, 4, 5]
    ids, weights = np.array([[3, END, 4, 5, 6, END]]), partial(answer_weights, end_id=END)
    nats = baseline.nats(baseline.hidden(torch.from_numpy(ids)), torch.from_numpy(ids), torch.ones(1, 6))
    loss = BaselineLoss(baseline, 0.0, weights=weights)(ids, nothing_known(np.ones(1), 6))
    assert loss.item() == pytest.approx(nats[:, 2:].mean().item(), rel=1e-5)
    rows = Conditioning(np.tile([*asked, 0, 0, 0, 0], (50, 1)), np.tile(np.arange(8) < 4, (50, 1)))
    written = sample_autoregressive(baseline, rows, np.random.default_rng(0), END)
    assert (written.ids[:, :4] == asked).all() and (written.ids[:, 4:] != END).any()
    assert written.calls.min() >= 1 and written.calls.max() <= 4


def test_known_positions_are_never_masked_and_parts_mask_as_the_whole() -> None:
    randomness = draw_randomness(DIFFUSION, seed=3, step=5, batch_rows=16, row_length=LENGTH)
    whole = draw_masked(randomness, randomness.times, LENGTH)
    assert whole.any() and not (whole & randomness.known).any()
    part = randomness.part(slice(4, 12))
    assert (draw_masked(part, part.times, LENGTH) == whole[4:12]).all()


def test_scattered_known_positions_are_left_out_and_prefixes_stay_as_many() -> None:
    known = without_scattered(KNOWN)
    assert (known.scattered, known.prefix, known.conditioned_fraction) == (0.0, 1.0, 0.375)
    none = without_scattered(dataclasses.replace(KNOWN, prefix=0.0))
    assert none.conditioned_fraction == 0.0


@pytest.mark.parametrize("changes", [{}, {"tied_head": False}, {"tied_head": False, "output_prior": True}])
@pytest.mark.parametrize("kind, passes", [("autoregressive", 1), ("masked", 2)])
def test_a_baseline_takes_as_many_operations(kind: Any, passes: int, changes: dict[str, bool]) -> None:
    """Counted by hand from its own weights."""
    model, vocab, length = dataclasses.replace(MODEL, **changes), 500, 40
    baseline = make_baseline(model, vocab, kind, 0)
    left_out = ("embedding.weight", "position")
    weights = [p for name, p in baseline.named_parameters() if p.ndim == 2 and not name.startswith(left_out)]
    products = sum(p.numel() for p in weights) + vocab * model.emb_dim * model.tied_head
    a_row = passes * 3 * length * (2 * products + model.num_layers * 4 * length * model.width)
    assert baseline_operations(kind, model, DIFFUSION, vocab, length) == pytest.approx(a_row)
    steps = equal_steps(kind, model, DIFFUSION, 9000, vocab, length)
    assert steps * a_row == pytest.approx(
        9000 * step_operations(model, DIFFUSION, vocab, 1, length), rel=1e-3
    )


def test_a_folder_that_was_altered_or_is_another_versions_is_named(tmp_path: Path) -> None:
    folder = stored(tmp_path, scrambled("masked"), "masked")
    assert is_baseline(folder) and not is_baseline(tmp_path)
    assert read_baseline(folder).lengths.longest == 6 and len(read_baseline(folder).tokenizer_sha256) == 64
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1] + b"\x01")
    with pytest.raises(UserError, match="is not what digests.json says"):
        read_baseline(folder)
    (folder / "config.json").write_text('{"kind": "masked"}')
    with pytest.raises(UserError, match="is of format None"):
        read_baseline(folder)


def stage_files(stage: dict[str, Any]) -> list[Path]:
    deps = [dep.removeprefix("../../") for dep in stage["deps"]]
    return [ROOT / dep for dep in deps if not dep.startswith(("data/", "models/"))]


def test_the_pipeline_depends_on_files_that_are_there_and_on_all_that_training_imports() -> None:
    stages = yaml.safe_load((ROOT / "pipelines" / "baselines" / "dvc.yaml").read_text())["stages"]
    training = stage_files(stages["train"]["do"])
    assert all(path.exists() for path in [*training, *stage_files(stages["compare"])])
    listing = (
        "import sys, pipelines.baselines.train; "
        "print(*[getattr(m, '__file__', None) or '' for m in list(sys.modules.values())], sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", listing], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    imported = [Path(line) for line in done.stdout.splitlines() if line.startswith(str(ROOT))]
    own = [path for path in imported if path.name != "__init__.py" and ".venv" not in path.parts]
    unlisted = [path for path in own if not any(path.is_relative_to(dep) for dep in training)]
    assert own and not unlisted, f"pipelines/baselines/dvc.yaml: train does not list {unlisted}"


@pytest.mark.parametrize("kind", ["autoregressive", "masked"])
def test_a_thimble_trains(kind: Any, params: dict[str, Any], shards: Any, tmp_path: Path) -> None:
    train(kind, params, shards.folder, tmp_path / kind)
    stored = read_baseline(tmp_path / kind)
    untrained = make_baseline(params["model"], shards.vocab_size, kind, params["pretrain"].seed)
    assert stored.config.end_id == shards.end_id and stored.config.can_check
    before = dict(untrained.named_parameters())
    still = {name for name, now in stored.baseline.named_parameters() if torch.equal(now, before[name])}
    assert all(name.endswith(".later") for name in still)  # which a causal pass does not read
    assert bool(still) is (kind == "autoregressive")


def test_the_page_says_who_won_among_texts_as_varied_as_real_ones(tmp_path: Path) -> None:
    row = dict.fromkeys(COLUMNS, 0.5) | {"entropy_corpus_nats": 4.4}
    rows = [
        {**row, "family": "sunfish_checked", "name": "8, then 2", "stories_consistent": 0.97},
        {**row, "family": "sunfish", "name": "DDIM 16", "stories_consistent": 0.2},
        {**row, "family": "masked", "name": "<b>", "stories_consistent": 0.99, "entropy_corpus_nats": 3.9},
    ]
    training = {"sunfish": {"steps": 9, "rows_per_step": 8, "operations": 1.0, "parameters": 7}}
    results = {
        "rows": rows, "real": row, "held_out": {}, "speed": [], "training": training,
        "how": {"texts": 3, "temperature": 1.0, "batch_rows": 2, "device": "cpu", "threads": 1},
        "samples": [{"row": index, "texts": ["<i>a text</i>"]} for index in range(3)],
    }  # fmt: skip
    said = verdict(results)
    assert said.startswith(
        "Best by the share of consistent stories: SunFish, checked (97.0% in 0.5 calls), ahead"
    )
    assert "masked" not in said
    draw_picture(tmp_path / "picture.png", results)
    write_page(tmp_path / "page.html", tmp_path / "picture.png", results)
    page = (tmp_path / "page.html").read_text()
    assert said in page and "http" not in page and "<i>" not in page and "<b>" not in page
