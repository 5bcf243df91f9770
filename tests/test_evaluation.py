"""Evaluation writes its tables, pictures and samples, and refuses what does not belong together."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from sunfish.errors import UserError
from sunfish.evaluation.context import EvalContext, Texts, batches_of, name_of
from sunfish.evaluation.evaluate import Places, Settings, evaluate, measure_all, samples_text
from sunfish.evaluation.headline import headline_numbers
from sunfish.evaluation.held_out import held_out_batches, measure_causal
from sunfish.evaluation.infilling import beginning, cut_texts, gap, measure_infilling
from sunfish.evaluation.metrics import METRICS, measure
from sunfish.evaluation.quality import (
    sentences_of,
)
from sunfish.evaluation.samplers import affordable, by_steps
from sunfish.evaluation.trajectory import follow, thin
from sunfish.files import read_json
from sunfish.model.pretrained import read_denoiser, write_denoiser
from sunfish.printable import printable
from sunfish.text.batches import RowDataset
from sunfish.text.shards import Shards
from tests.builders import CHECKED, OFF, PLAIN

FEW = (("ddpm", 20), ("ddim", 5), ("ddim", 4))
FILES = {"metrics": "m.json", "results": "r.json", "plots": "plots", "samples": "samples.txt"}


def settings_of(params: dict[str, Any], **changes: Any) -> Settings:
    values = {name: params[name] for name in ("data", "evaluate", "sampler")} | {"tracking": OFF}
    return Settings(**(values | changes))


def places_of(trained: Path, shards: Shards, folder: Path) -> Places:
    named = {name: folder / file for name, file in FILES.items()}
    return Places(trained / "denoiser", shards.folder, trained / "curve.csv", **named)


@pytest.fixture(scope="module")
def places(
    params: dict[str, Any], trained: Path, shards: Shards, tmp_path_factory: pytest.TempPathFactory
) -> Places:
    places = places_of(trained, shards, tmp_path_factory.mktemp("evaluation"))
    with mock.patch("sunfish.evaluation.samplers.FOUNDING", FEW):  # a thousand steps take too long here
        evaluate(settings_of(params), places)
    return places


@pytest.fixture(scope="module")
def context(params: dict[str, Any], trained: Path, shards: Shards) -> EvalContext:
    names = ("data", "evaluate", "sampler")
    return EvalContext.read(trained / "denoiser", shards.folder, *(params[name] for name in names))


def test_evaluation_writes_tables_pictures_and_samples(params: dict[str, Any], places: Places) -> None:
    results = read_json(places.results)
    assert results["real_text"]["stories_consistent"] == 1.0 and results["real_text"]["unique"] == 1.0
    assert results["bound"]["ratio_to_entropy"] > 1.0 and results["causal"]["ratio_to_entropy"] > 1.0
    founding = {"ddpm-20", "ddim-5", "ddim-4"}
    assert set(results["samplers"]) == {*founding, "ddpm-64-kept-0.9"}
    assert set(results["speed"]) == {*founding, name_of(params["sampler"])}
    draft = params["sampler"].name
    assert {f"{draft}-3", f"{draft}-6"} < set(results["plain_by_steps"])
    assert {f"{draft}-3-checked", f"{draft}-6-checked"} < set(results["checked_by_steps"])
    assert all(row["seconds_per_text"] > 0 for row in results["samplers"].values())
    assert results["samplers"]["ddpm-20"]["calls_per_text"] == 20
    assert set(results["infilling"]) == {"gap", "beginning"}
    assert Counter(path.suffix for path in places.plots.iterdir()) == {".csv": 4, ".png": 4}
    samples = places.samples.read_text(encoding="utf-8").split("\n\n")
    assert len(samples) == params["evaluate"].shown_samples
    assert samples[0].strip() == printable(results["samples"][0]["text"], newlines=True).strip()


def test_samples_hold_no_control_characters() -> None:
    shown = samples_text([{"text": "a\x1b[31mred\x9b\nline"}, {"text": "b"}])
    assert shown == "a\\x1b[31mred\\x9b\nline\n\nb\n"


def test_sentences_of_the_training_text_count_as_memorised(
    params: dict[str, Any], context: EvalContext
) -> None:
    """Of text that people wrote; what a grammar writes says the same again and is no memory."""
    rows = RowDataset(context.shards, "train", params["data"])
    known = context.texts(context.cut(rows.read(rows.first(5))))
    assert "sentences_memorised" not in measure(known, context)
    real = dataclasses.replace(context, grammar=None)
    mixed = dataclasses.replace(known, words=[known.words[0], "Nobody wrote this. Nor this!"])
    count = len(sentences_of(known.words[0]))
    assert METRICS["memorised"](known, real) == {"sentences_memorised": 1.0}
    assert METRICS["memorised"](mixed, real) == {"sentences_memorised": count / (count + 2)}


def test_the_headline_file_is_flat_and_small(places: Places) -> None:
    headline = read_json(places.metrics)
    assert 10 <= len(headline) <= 14 and all(isinstance(value, float) for value in headline.values())
    results = read_json(places.results)
    assert headline["consistent"] == round(results["headline"]["stories_consistent"], 4)
    assert headline["bound_nats"] == round(results["bound"]["nats_per_token"], 4)
    assert headline_numbers({"headline": {"unique": 0.123456}}) == {"unique": 0.1235}


def test_without_a_check_there_are_the_plain_numbers(context: EvalContext) -> None:
    plain = dataclasses.replace(context, sampler=context.draft_sampler)
    with mock.patch("sunfish.evaluation.samplers.FOUNDING", FEW):
        _, results, frames = measure_all(plain)
    assert results["headline"] == results["draft"] and results["checked_by_steps"] == {}
    assert results["headline"]["calls_per_text"] == 3 and results["headline"]["corrected_per_text"] == 0
    assert [frame.kind for frame in frames] == ["denoise"] * 3


def test_a_model_that_has_not_learned_to_check_is_evaluated_without(
    params: dict[str, Any], trained: Path, shards: Shards, tmp_path: Path
) -> None:
    stored = read_denoiser(trained / "denoiser")
    config = dataclasses.replace(stored.config, can_check=False)
    weights = stored.denoiser.state_dict()
    write_denoiser(tmp_path / "denoiser", config, weights, stored.schedule, stored.folder)
    sections = (params[name] for name in ("data", "evaluate", "sampler"))
    context = EvalContext.read(tmp_path / "denoiser", shards.folder, *sections)
    assert params["sampler"].check is not None and context.sampler.check is None


def test_a_denoiser_of_another_tokenizer_is_refused(
    params: dict[str, Any], trained: Path, shards: Shards, tmp_path: Path
) -> None:
    stored = read_denoiser(trained / "denoiser")
    other = Path(shutil.copytree(shards.folder, tmp_path / "other"))
    with (other / "tokenizer.json").open("a", encoding="utf-8") as file:
        file.write(" ")
    write_denoiser(tmp_path / "denoiser", stored.config, stored.denoiser.state_dict(), stored.schedule, other)
    with pytest.raises(UserError, match="another tokenizer"):
        evaluate(settings_of(params), places_of(tmp_path, shards, tmp_path))


def test_texts_come_with_what_they_took(context: EvalContext) -> None:
    plain = context.write_texts(PLAIN, 6, seed=3)
    assert len(plain) == 6 and plain.calls == 4.0 and plain.corrected == 0.0 and plain.seconds > 0
    lenient = dataclasses.replace(CHECKED, check=dataclasses.replace(CHECKED.check, epsilon=0.0))
    passed = context.write_texts(lenient, 6, seed=3)
    assert passed.words == plain.words  # the same noise, and a check that rejects nothing
    assert passed.calls == 5.0 and passed.corrected == 0.0
    checked = context.write_texts(CHECKED, 6, seed=3)
    assert checked.corrected > 0 and checked.calls > 5
    assert context.write_texts(PLAIN, 6, seed=3).words == plain.words
    assert context.write_texts(PLAIN, 6, seed=4).words != plain.words


def test_batches_are_of_one_length_and_hold_every_text_once() -> None:
    lengths = np.array([4, 8, 4, 4, 8])
    batches = [batch.tolist() for batch in batches_of(lengths, 2)]
    assert batches == [[0, 2], [3], [1, 4]]


def test_samplers_have_short_names_and_a_price() -> None:
    kept = dataclasses.replace(PLAIN, name="ddpm", steps=64, confidence_threshold=0.9)
    assert [name_of(s) for s in (PLAIN, CHECKED, kept)] == ["ddim-4", "ddim-4-checked", "ddpm-64-kept-0.9"]
    assert affordable(250, PLAIN) == 250 and affordable(250, kept) == 250
    assert affordable(250, dataclasses.replace(kept, steps=1000)) == 16
    assert [s.steps for s in by_steps(PLAIN).values()] == [2, 4, 8, 16]
    assert [s.steps for s in by_steps(dataclasses.replace(PLAIN, steps=1000)).values()] == [1000]


@torch.no_grad()
def test_the_causal_likelihood_is_that_of_the_check(context: EvalContext) -> None:
    total = 0.0
    for ids in held_out_batches(context):
        tokens = torch.from_numpy(ids)
        chosen = (
            context.stored.denoiser.next_token_logits(tokens).log_softmax(-1).gather(2, tokens[..., None])
        )
        total += float(context.stored.lengths.nats(np.full(len(ids), ids.shape[1])).sum() - chosen.sum())
    indices = context.held_out.first(context.config.bound_rows)
    expected = total / context.held_out.num_tokens(indices).sum()
    assert measure_causal(context)["nats_per_token"] == pytest.approx(expected, rel=1e-5)


def test_a_metric_is_one_entry_and_must_be_finite(
    context: EvalContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = Texts([[1, 2]], ["a b"], calls=3.0, corrected=1.0, seconds=0.5)
    assert measure(texts, context).items() >= {"calls_per_text": 3.0, "corrected_per_text": 1.0}.items()
    assert "calls_per_text" not in measure(Texts([[1, 2]], ["a b"]), context)
    monkeypatch.setitem(METRICS, "length", lambda texts, _: {"characters": float(len(texts.words[0]))})
    assert measure(texts, context)["characters"] == 3.0
    monkeypatch.setitem(METRICS, "length", lambda texts, _: {"characters": math.nan})
    with pytest.raises(UserError, match="'length' gives characters = nan"):
        measure(texts, context)


def test_a_gap_is_a_quarter_of_the_text_and_never_behind_it() -> None:
    ids = np.array([[1, 2, 3, 4, 5, 6, 7, 8, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]])
    for seed in range(20):
        part = cut_texts(ids, 0, gap, np.random.default_rng(seed))
        assert (~part.known).sum(axis=1).tolist() == [2, 1]
        assert part.known[0, 8:].all() and not part.known[1, 0]
        assert np.diff(np.flatnonzero(~part.known[0])) == [1]
    start = cut_texts(ids, 0, beginning, np.random.default_rng(0))
    assert np.flatnonzero(~start.known[0]).tolist() == [0, 1, 2, 3] and not start.known[1, 0]


def test_what_is_given_stays_when_gaps_are_filled(context: EvalContext) -> None:
    for name in ("gap", "beginning"):
        numbers = measure_infilling(context, name)
        assert numbers["given_kept"] == 1.0 and numbers["rows"] == 8
        assert 0.0 <= numbers["unknown_as_written"] < 1.0
        assert numbers["corrected_per_text"] <= numbers["calls_per_text"]


def test_a_trajectory_ends_in_the_text_and_shows_what_was_struck(context: EvalContext) -> None:
    context = dataclasses.replace(context, sampler=dataclasses.replace(CHECKED, name="ddpm-categorical"))
    frames = follow(context, 12, (0, 1))
    assert [frame.kind for frame in frames[:5]] == ["denoise"] * 4 + ["check"]
    assert not frames[0].known.any() and frames[-1].known.all()
    check = frames[4]
    assert any(check.struck)
    struck = next(k for k, token in enumerate(check.struck) if token)
    assert check.struck[struck] == frames[3].tokens[struck] and check.known[struck]
    assert (check.confidence[: struck + 1] == 1.0).all() and frames[3].confidence.max() <= 1.0
    assert thin(frames)[0] is frames[0] and thin(frames)[-1] is frames[-1]
    assert len(thin(frames)) <= len(frames)
