"""The comparators must be right too: causal where they say so, exact where they say so, their bound a bound,
and their draws from their own distribution.
"""

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
from pipelines.baselines.autoregressive import CachedDecoder, sample_autoregressive
from pipelines.baselines.loss import (
    BaselineLoss,
    autoregressive_nats,
    draw_masked,
    masked_bound,
    without_scattered,
)
from pipelines.baselines.masked import sample_masked
from pipelines.baselines.page import COLUMNS, draw_picture, verdict, write_page
from pipelines.baselines.train import baseline_operations, equal_steps, train
from sunfish.config.schema.diffusion import DiffusionConfig, KnownConfig
from sunfish.config.schema.model import ModelConfig
from sunfish.config.schema.sampler import CheckConfig, SamplerConfig
from sunfish.diffusion.conditioning import StepRandomness, draw_randomness
from sunfish.diffusion.lengths import RowLengths
from sunfish.diffusion.schedule import uniform
from sunfish.errors import UserError
from sunfish.model.baseline import (
    FORMAT,
    TOKENIZER_FILES,
    Baseline,
    BaselineConfig,
    is_baseline,
    make_baseline,
    read_baseline,
)
from sunfish.model.pretrained import write_folder
from sunfish.sampling.loop import Conditioning, SamplerPlan
from sunfish.text.layouts import answer_weights
from sunfish.training.cost import step_operations
from tests.oracles import surprise_margin

ROOT = Path(__file__).parent.parent
VOCAB, LENGTH, END = 11, 8, 0
MODEL = ModelConfig(
    name="thimble", num_layers=2, num_heads=2, width=32, emb_dim=16, cond_dim=8, conv_window=2,
    tied_head=True, input_posterior=True, output_prior=False, length_conditioning=True,
)  # fmt: skip
KNOWN = KnownConfig(
    conditioned_fraction=0.75, prefix=1.0, suffix=0.0, span=0.0, scattered=1.0, pure_noise_fraction=0.33
)
DIFFUSION = DiffusionConfig(objective="ce", check_weight=4.0, self_conditioning=0.5, known=KNOWN)
PLAIN = SamplerConfig(
    name="ddim", steps=6, eta=0.0, churn=0.0, temperature=1.0, confidence_threshold=1.0,
    epsilon_cutoff=0.0, check=None,
)  # fmt: skip
CHECKED = dataclasses.replace(
    PLAIN, check=CheckConfig(epsilon=0.5, steps=2, restart_time=0.5, max_rounds=None)
)


def scrambled(kind: Any, **changes: Any) -> Baseline:
    """A baseline of which every weight says something."""
    baseline = make_baseline(dataclasses.replace(MODEL, **changes), VOCAB, kind, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in baseline.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return baseline.eval()


def plan_of(config: SamplerConfig) -> SamplerPlan:
    return SamplerPlan.make(config, uniform(-5.0, 5.0))


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


@pytest.mark.parametrize("tied_head", [True, False])
def test_sampling_with_a_cache_equals_sampling_without(tied_head: bool) -> None:
    baseline = scrambled("autoregressive", tied_head=tied_head)
    ids = torch.randint(VOCAB, (3, LENGTH), generator=torch.Generator().manual_seed(0))
    decoder, logits = CachedDecoder(baseline, 3, LENGTH), []
    with torch.no_grad():
        for position in range(LENGTH):
            logits.append(decoder.step())
            decoder.append(ids[:, position : position + 1])
        torch.testing.assert_close(torch.cat(logits, dim=1), baseline(ids), rtol=1e-4, atol=1e-5)


def test_autoregressive_texts_are_their_own_whatever_is_beside_them_and_end_once() -> None:
    baseline = scrambled("autoregressive")
    many = sample_autoregressive(baseline, Conditioning.nothing(40, LENGTH), np.random.default_rng(0), END)
    few = sample_autoregressive(baseline, Conditioning.nothing(3, LENGTH), np.random.default_rng(0), END)
    assert (many.ids[:3] == few.ids).all() and many.ids.max() < VOCAB
    for row, calls in zip(many.ids, many.calls, strict=True):
        ends = np.flatnonzero(row == END)
        assert calls == (ends[0] + 1 if len(ends) else LENGTH) and (row[calls:] == END).all()


def test_autoregressive_texts_keep_what_is_given_and_draw_the_rest_after_it() -> None:
    baseline, rng = scrambled("autoregressive"), np.random.default_rng(0)
    ids, known = rng.integers(1, VOCAB, size=(9, LENGTH)), np.arange(LENGTH) < 5
    given = Conditioning(ids, np.tile(known, (9, 1)))
    rows = sample_autoregressive(baseline, given, rng, temperature=1e-4).ids
    assert (rows[:, :5] == ids[:, :5]).all()
    with torch.no_grad():
        likeliest = baseline(torch.from_numpy(rows)).argmax(dim=-1).numpy()
    assert (rows[:, 5:] == likeliest[:, 5:]).all()


def test_the_cutoff_leaves_improbable_tokens_out() -> None:
    baseline = scrambled("autoregressive")
    nothing = Conditioning.nothing(50, LENGTH)
    rows = sample_autoregressive(baseline, nothing, np.random.default_rng(0), epsilon_cutoff=0.15).ids
    with torch.no_grad():
        probabilities = baseline(torch.from_numpy(rows)).softmax(dim=-1)
    drawn = probabilities.gather(2, torch.from_numpy(rows)[..., None]).squeeze(-1)
    assert ((drawn > 0.149) | (drawn >= probabilities.amax(dim=-1) - 1e-5)).all()


@pytest.mark.parametrize("steps", [1, 6, 20])
def test_masked_sampling_keeps_what_is_given_and_takes_the_steps_asked(steps: int) -> None:
    rng = np.random.default_rng(0)
    given = Conditioning(rng.integers(VOCAB, size=(5, LENGTH)), rng.random((5, LENGTH)) < 0.4)
    plan = plan_of(dataclasses.replace(PLAIN, steps=steps))
    sampled = sample_masked(scrambled("masked"), plan, given, np.random.default_rng(1))
    assert (sampled.ids[given.known] == given.ids[given.known]).all() and sampled.ids.max() < VOCAB
    assert (sampled.calls == steps).all() and (sampled.corrected == 0).all()


def test_masked_texts_are_independent_of_those_beside_them() -> None:
    baseline, plan = scrambled("masked"), plan_of(CHECKED)
    many = sample_masked(baseline, plan, Conditioning.nothing(9, LENGTH), np.random.default_rng(1))
    few = sample_masked(baseline, plan, Conditioning.nothing(2, LENGTH), np.random.default_rng(1))
    assert (many.ids[:2] == few.ids).all() and (many.calls[:2] == few.calls).all()


@pytest.mark.parametrize("restart_time", [0.3, 1.0])
def test_a_checked_masked_text_holds_only_what_passes(restart_time: float) -> None:
    baseline, check = scrambled("masked"), dataclasses.replace(CHECKED.check, restart_time=restart_time)
    plan = plan_of(dataclasses.replace(CHECKED, check=check))
    sampled = sample_masked(baseline, plan, Conditioning.nothing(30, LENGTH), np.random.default_rng(1))
    assert (surprise_margin(baseline, sampled.ids, 0.5) >= -1e-4).all()
    assert sampled.corrected.max() > 0 and (sampled.corrected <= LENGTH).all()
    rounds = sampled.calls - (6 + 1)
    assert (rounds % 3 == 0).all() and (rounds // 3 <= sampled.corrected).all()


def test_masks_disappear_evenly_in_time() -> None:
    """After half of the steps half of the positions are shown: alpha_t = 1 - t."""
    from pipelines.baselines.masked import MaskedBackend

    baseline, plan = scrambled("masked"), plan_of(dataclasses.replace(PLAIN, steps=10))
    backend = MaskedBackend(baseline, plan, np.random.default_rng(0).spawn(400))
    backend.start(Conditioning.nothing(400, LENGTH))
    with torch.no_grad():
        for index in range(5):
            backend.denoise(plan.draft, index)
    assert float((backend.ids == baseline.mask_id).float().mean()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("kind", ["autoregressive", "masked"])
def test_a_baseline_learns_two_texts_and_writes_them(kind: Any, tmp_path: Path) -> None:
    texts = np.array([[1, 2, 3, 4, END, END], [5, 6, 7, 8, 9, END]])
    baseline = make_baseline(MODEL, VOCAB, kind, 0)
    loss, ids = BaselineLoss(baseline, check_weight=1.0), np.repeat(texts, 8, axis=0)
    optimizer = torch.optim.AdamW(baseline.parameters(), lr=1e-2)
    diffusion = dataclasses.replace(DIFFUSION, known=without_scattered(KNOWN))
    for step in range(200):
        optimizer.zero_grad()
        loss(ids, draw_randomness(diffusion, 0, step, len(ids), 6)).backward()
        optimizer.step()
    again = read_baseline(stored(tmp_path, baseline, kind)).baseline
    rng, nothing = np.random.default_rng(0), Conditioning.nothing(20, 6)
    if kind == "masked":
        rows = sample_masked(again, plan_of(dataclasses.replace(CHECKED, steps=30)), nothing, rng).ids
        bound = float(masked_bound(again, torch.from_numpy(texts), 200, rng).mean())
        assert bound < 0.5 * 6 * math.log(VOCAB)
    else:
        rows = sample_autoregressive(again, nothing, rng, END, temperature=0.7, epsilon_cutoff=0.01).ids
    assert np.mean([(row == texts).all(axis=1).any() for row in rows]) > 0.8


def stored(folder: Path, baseline: Baseline, kind: Any) -> Path:
    for name in TOKENIZER_FILES:
        (folder / name).write_text("{}")
    config = BaselineConfig(FORMAT, MODEL, VOCAB, RowLengths.count([6, 6], 1), END, True, kind)
    write_folder(folder / "baseline", config, dict(baseline.named_parameters()), folder)
    return folder / "baseline"


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
