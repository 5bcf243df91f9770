"""The comparators must be right too: causal where they say so, exact where they say so, and their draws
unbiased.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from benchmarks.ablation import JUDGED, LEVERS

from benchmarks import ablation
from pipelines.baselines.objective import draw_tokens, row_nats, said, train_loss, write_rows
from pipelines.baselines.page import CORPORA, quality_of, ranks, write_page
from pipelines.baselines.train import equal_steps
from sunfish.config.compose import check, compose
from sunfish.diffusion.lengths import RowLengths
from sunfish.errors import UserError
from sunfish.evaluation.mauve import area, mauve
from sunfish.model.baseline import Baseline, make_baseline, read_baseline, write_baseline
from sunfish.training.cost import step_operations
from tests.builders import ROOT
from tests.test_model import SMALL
from tests.test_model import make as make_denoiser

VOCAB, END = 11, 0


def scrambled(kind: str) -> Baseline:
    """A twin of which every weight says something."""
    twin = make_baseline(SMALL, VOCAB, kind, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return twin.eval()


@pytest.mark.parametrize("kind", ["autoregressive", "masked"])
def test_only_the_masked_twin_sees_what_comes_later(kind: str) -> None:
    twin, ids = scrambled(kind), torch.arange(8)[None] % VOCAB
    changed = ids.clone()
    changed[0, 5] = 9
    differ = (twin(ids) != twin(changed)).any(dim=-1)[0]
    assert bool(differ[:5].any()) == (kind == "masked") and differ[5:].any()


@pytest.mark.parametrize("kind", ["autoregressive", "masked"])
def test_a_twin_that_knows_nothing_pays_the_full_price(kind: str) -> None:
    """Before training all tokens are alike: log V each, up to the end token, or, on average, at every
    position.
    """
    twin, rng = make_baseline(SMALL, VOCAB, kind, 0), np.random.default_rng(0)
    ids = np.tile(np.array([3, 4, 5, END, END, END, END, END]), (4000, 1))
    nats = row_nats(twin, ids, END, rng).detach().numpy() / math.log(VOCAB)
    tokens = 4 if kind == "autoregressive" else 8
    assert nats.mean() == pytest.approx(tokens, rel=1e-5 if kind == "autoregressive" else 0.1)
    assert float(train_loss(twin, ids, END, rng)) == pytest.approx(math.log(VOCAB), rel=0.1)


def test_a_text_ends_with_its_first_end_token() -> None:
    assert said(torch.tensor([[4, END, END], [END, 4, END], [4, 4, 4]]), END).tolist() == [
        [True, True, False], [True, False, False], [True, True, True]
    ]  # fmt: skip


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -3.0]).expand(40_000, 4)
    for heat in (1.0, 0.5):
        shares = (
            np.bincount(draw_tokens(logits, heat, 0.0, np.random.default_rng(0)).numpy(), minlength=4)
            / 40_000
        )
        assert shares == pytest.approx((logits[0] / heat).softmax(-1).numpy(), abs=0.01)


@pytest.mark.parametrize("tied_head", [True, False])
@pytest.mark.parametrize("kind", ["autoregressive", "masked"])
def test_a_twin_learns_two_texts_and_writes_them(kind: str, tied_head: bool, tmp_path: Path) -> None:
    texts = np.array([[1, 2, 3, 4, END, END], [5, 6, 7, 8, 9, END]])
    section = dataclasses.replace(SMALL, tied_head=tied_head)
    twin, rng = make_baseline(section, VOCAB, kind, 0), np.random.default_rng(0)
    assert twin.head.weight.shape == make_denoiser(VOCAB, tied_head=tied_head).head.weight.shape
    optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        train_loss(twin, np.repeat(texts, 8, axis=0), END, rng).backward()
        optimizer.step()
    write_baseline(
        tmp_path / "twin", twin, dict(twin.named_parameters()), RowLengths.count([6, 6], 1), "0" * 64
    )
    stored = read_baseline(tmp_path / "twin")
    again = stored.twin
    assert stored.lengths.longest == 6
    rows = write_rows(again, 20, 6, 300, 0.7, 0.01, END, rng)
    assert rows.shape == (20, 6) and rows.max() < VOCAB
    ends = [4, 5]  # where each text's first end token stands
    right = [
        any((row[: end + 1] == text[: end + 1]).all() for text, end in zip(texts, ends, strict=True))
        for row in rows
    ]
    assert np.mean(right) > 0.8
    assert float(row_nats(again, texts, END, rng, np.ones(2)).mean()) < 6 * math.log(VOCAB)


@pytest.mark.parametrize(
    "told", [[], ["model.tied_head=false"], ["diffusion=files", "model.tied_head=false"]]
)
def test_a_twin_takes_as_many_operations(told: list[str], tmp_path: Path) -> None:
    """Counted by hand from its own weights, of which only the first layer is narrower than it is counted."""
    compose([*told, "tracking=off"], tmp_path / "params.yaml")
    params = check(tmp_path / "params.yaml")
    model, diffusion, section, vocab, length = (
        params["model"],
        params["diffusion"],
        params["pretrain"],
        500,
        40,
    )
    rows = round(diffusion.copies * section.batch_rows)
    steps = equal_steps(model, diffusion, section, rows, vocab, length)
    twin = make_baseline(model, vocab, "autoregressive", 0)
    products = sum(
        p.numel() for name, p in twin.named_parameters() if p.ndim == 2 and name != "embedding.weight"
    )
    products += vocab * model.emb_dim * model.tied_head
    a_token = 3 * (2 * products + model.num_layers * 4 * length * model.width)
    ours = section.steps * step_operations(
        model, vocab, section.batch_rows, length, diffusion.self_conditioning, diffusion.copies
    )
    assert 0.95 < steps * rows * length * a_token / ours <= 1.0


def test_the_twins_pipeline_names_files_that_are_there() -> None:
    stages = yaml.safe_load((ROOT / "benchmarks" / "twins" / "dvc.yaml").read_text())["stages"]
    deps = [*stages["train"]["do"]["deps"], *stages["compare"]["deps"], *stages["page"]["deps"]]
    assert all((ROOT / dep).is_file() for dep in deps if Path(dep).suffix)


def test_the_page_shows_what_was_measured_and_ranks_like_with_like_only(tmp_path: Path) -> None:
    results = {
        name: json.loads((ROOT / "benchmarks" / "twins" / f"{name}.json").read_text()) for name in CORPORA
    }
    stories = results["results"]
    assert (
        quality_of(stories) == "stories_consistent"
        and quality_of(results["tinystories"]) == "judged_perplexity"
    )
    stories["texts"]["masked"]["1"]["entropy_corpus_nats"] = (
        stories["texts"]["sunfish"]["1"]["entropy_corpus_nats"] - 0.11
    )
    near, far = (
        {str(value): {"8": {"entropy_corpus_nats": value}} for value in values}
        for values in ((4.30, 4.39), (4.30, 4.36, 4.41))
    )
    assert ranks(near, "8") and not ranks(far, "8")
    write_page(tmp_path / "page.html", results)
    page = (tmp_path / "page.html").read_text()
    assert all(
        f"{row['nats_per_token']:.3f} ±" in page
        for result in results.values()
        for row in result["held_out"].values()
    )
    apart = [row for row in page.split("<tr")[1:] if row.startswith(' class="apart"')]
    assert any(">SunFish, T 1<" in row for row in apart) and any(
        ">masked diffusion, 128 steps at most<" in row for row in apart
    )
    assert "http" not in page  # it opens from disk


def test_piles_of_the_same_kind_are_near_and_of_another_are_not() -> None:
    rng = np.random.default_rng(0)
    ours, same, other = (
        rng.standard_normal((300, 8)),
        rng.standard_normal((300, 8)),
        rng.standard_normal((300, 8)) + 1.5,
    )
    near, far = (mauve(ours, theirs, 0) for theirs in (same, other))
    assert 0.9 < near <= 1.0 and far < 0.2
    half = np.concatenate((same[:150], other[:150]))
    assert far < mauve(ours, half, 0) < near
    with pytest.raises(UserError, match="MAUVE of 20 texts says nothing: it needs 50"):
        mauve(ours[:20], same, 0)


def test_the_area_is_that_of_two_known_histograms() -> None:
    assert area(np.array([0.3, 0.7]), np.array([0.3, 0.7])) == pytest.approx(1.0)
    assert area(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx(
        0.0041, abs=3e-4
    )  # what piles with nothing in common have


@pytest.mark.parametrize("lever", LEVERS)
def test_every_lever_of_the_ablation_is_a_configuration_that_can_run(lever: str, tmp_path: Path) -> None:
    compose([*LEVERS[lever], "tracking=off", "pretrain.steps=300"], tmp_path / "params.yaml")
    assert check(tmp_path / "params.yaml")["pretrain"].steps == 300


def test_a_lever_that_stands_already_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []

    def note(told: list[str], _: Path) -> dict[str, float]:
        asked.append(told)
        return {}

    monkeypatch.setattr(ablation, "train_and_judge", note)
    command = (
        f"ablation --out {tmp_path / 'out.json'} --seeds 0 --on diffusion=files data.row_length=64".split()
    )
    monkeypatch.setattr("sys.argv", [*command, "--only", "default", "a noisy copy of every row", "2 heads"])
    ablation.main()
    assert [told[2:4] for told in asked] == [["diffusion=files", "data.row_length=64"]] * 2 and all(
        told[:2] == JUDGED for told in asked
    )
    assert "model.num_heads=2" in asked[1]
    assert "a noisy copy of every row: stands in the default already" in capsys.readouterr().out
    ablation.main()
    assert len(asked) == 2  # what is done is not done again
