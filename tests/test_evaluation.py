from __future__ import annotations

import dataclasses
import itertools
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from sunfish.errors import UserError
from sunfish.evaluation.context import EvalContext
from sunfish.evaluation.evaluate import Places, evaluate
from sunfish.evaluation.infilling import cut_gaps, measure_infilling
from sunfish.evaluation.quality import count_story_words, story_metrics, text_metrics, total_variation
from sunfish.evaluation.speed import time_to_quality
from sunfish.evaluation.trajectory import follow
from sunfish.files import read_json
from sunfish.text.lexicon import SHORT
from sunfish.text.shards import Shards
from sunfish.text.stories import split_sentences, write_stories
from tests.builders import OFF

FILES = {"metrics": "m.json", "plots": "plots", "samples": "samples.txt", "report": "report.html"}


@pytest.fixture(scope="module")
def places(params: dict, trained: Path, shards: Shards, tmp_path_factory: pytest.TempPathFactory) -> Places:
    folder = tmp_path_factory.mktemp("evaluation")
    named = {name: folder / file for name, file in FILES.items()}
    places = Places(trained / "denoiser", shards.folder, trained / "curve.csv", **named)
    evaluate(params["data"], params["evaluate"], OFF, places)
    return places


@pytest.fixture(scope="module")
def subject(params: dict, trained: Path, shards: Shards) -> EvalContext:
    return EvalContext.read(trained / "denoiser", shards.folder, params["data"], params["evaluate"])


def test_evaluation_writes_numbers_pictures_and_samples(params: dict, places: Places) -> None:
    metrics = read_json(places.metrics)
    assert metrics["real_text"]["stories_consistent"] == 1.0 and metrics["real_text"]["unique"] == 1.0
    assert metrics["bound"]["bound_over_entropy"] > 1.0
    assert (
        metrics["bound_one_step"]["bound_over_entropy"] > 1.0
        and metrics["bound_one_step"]["reconstruction_nats_per_row"] > 0
    )
    assert set(metrics["speed"]) == {"ddpm_1000", "ddim_50", "ddim_10"}
    assert (
        list(metrics["frontier"]) == ["3", "5"]
        and "2" in metrics["windows"]
        and set(metrics["temperatures"]) == {"0.5", "1"}
    )
    assert Counter(path.suffix for path in places.plots.iterdir()) == {".csv": 2, ".png": 6}
    assert len(places.samples.read_text().split("\n\n")) == params["evaluate"].num_samples


def test_the_fastest_way_to_a_quality_counts_at_like_entropy_only() -> None:
    def row(consistent: float, entropy: float, seconds: float) -> dict[str, float]:
        taken = {"seconds_per_text": seconds, "calls_per_text": 100 * seconds, "tokens_per_sample": 30.0}
        return {"stories_consistent": consistent, "entropy_corpus_nats": entropy, **taken}

    best = row(0.9, 4.3, 0.3)
    rows = {"4": row(0.95, 4.0, 0.1), "8": row(0.5, 4.3, 0.1), "16": row(0.86, 4.25, 0.2), "32": best}
    assert time_to_quality(rows, best) == {
        "at": "16",
        "seconds_per_text": 0.2,
        "calls_per_text": 20.0,
        "tokens_per_second": 150.0,
    }
    assert time_to_quality({"8": rows["8"]}, best) is None
    judged = [
        {**row(0, 4.3, seconds), "judged_perplexity": value}
        for seconds, value in ((0.1, 9.0), (0.2, 5.2), (0.3, 5.0))
    ]
    plain = [{key: value for key, value in one.items() if key != "stories_consistent"} for one in judged]
    assert time_to_quality(dict(zip("abc", plain, strict=True)), plain[2])["at"] == "b"
    assert (
        time_to_quality({"a": {**plain[0], "judged_perplexity": 1.0}}, {"entropy_corpus_nats": 4.3}) is None
    )  # nobody judged


def test_the_report_is_one_page_that_needs_nothing_else(places: Places) -> None:
    page, open_tags = places.report.read_text(encoding="utf-8"), list[str]()

    class Balance(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list) -> None:
            if tag not in ("meta", "img", "input", "link", "br", "p", "tr", "td", "th", "html"):
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if tag not in ("p", "tr", "td", "th", "html"):
                assert open_tags.pop() == tag

    Balance().feed(page)
    assert open_tags == []
    assert not re.search(r"(src|href)=\"(?!data:)", page) and "http" not in page
    assert page.count("data:image/png;base64,") == 6
    assert places.samples.read_text().split("\n\n")[0].strip() in page
    consistent = read_json(places.metrics)["samples"]["stories_consistent"]
    assert f"{100 * consistent:.1f} %" in page


def test_a_denoiser_of_another_tokenizer_is_refused(params: dict, places: Places, tmp_path: Path) -> None:
    foreign = dataclasses.replace(
        places, denoiser=Path(shutil.copytree(places.denoiser, tmp_path / "foreign"))
    )
    (foreign.denoiser / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="another tokenizer"):
        evaluate(params["data"], params["evaluate"], OFF, foreign)


def test_text_metrics_on_texts_one_can_count() -> None:
    metrics = text_metrics([[1, 1, 2, 2], [1, 1, 2, 2]], ["a", "a"])
    assert metrics["unique"] == 0.5 and metrics["entropy_per_sample_nats"] == pytest.approx(np.log(2))
    assert metrics["distinct_2"] == 0.5 and metrics["distinct_3"] == 0.5 and metrics["rep_2"] == 0.0


def test_total_variation_of_shares_one_can_count() -> None:
    assert total_variation({"a": 1.0}, {"b": 1.0}) == 1.0 == total_variation({}, {"b": 1.0})
    assert total_variation({"a": 0.75, "b": 0.25}, {"a": 0.5, "b": 0.5}) == pytest.approx(0.25)
    assert total_variation({"a": 0.5, "b": 0.5}, {"b": 0.5, "a": 0.5}) == 0.0


def test_every_sentence_of_the_grammar_has_a_form_and_its_stories_are_near_it() -> None:
    stories = list(itertools.islice(write_stories(3), 3000))
    counts = count_story_words(stories, SHORT)
    assert counts["forms"].total() == sum(len(split_sentences(story)) for story in stories)
    assert counts["people"].total() == len(stories)
    metrics = story_metrics(stories, SHORT)
    assert all(metrics[f"{kind}_total_variation"] < 0.06 for kind in counts)
    lopsided = story_metrics([story for story in stories if "anna" in story.split()], SHORT)
    assert lopsided["people_total_variation"] > 0.5


def test_a_gap_is_a_quarter_of_the_text_and_never_behind_it() -> None:
    ids = np.array([[1, 2, 3, 4, 5, 6, 7, 8, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]])
    for seed in range(20):
        gap = cut_gaps(ids, 0, np.random.default_rng(seed))
        assert (~gap.known).sum(axis=1).tolist() == [2, 1]
        assert gap.known[0, 8:].all() and not gap.known[1, 0]
        assert np.diff(np.flatnonzero(~gap.known[0])) == [1]


def test_what_is_given_stays_when_gaps_are_filled(subject: EvalContext) -> None:
    numbers = measure_infilling(subject)
    assert numbers["given_kept"] == 1.0 and numbers["rows"] == 8
    assert 0.0 <= numbers["gap_tokens_as_written"] < 1.0
    assert numbers["nats_per_gap_token"] > 0.0


def test_a_walk_is_followed_to_the_text_it_ends_in(subject: EvalContext) -> None:
    subject = subject.told(sampler="ancestral")
    never = subject.told(num_steps=20, window_steps=20, settle=1.0).table()
    usual = follow(subject.stored.denoiser, never, 12, np.random.default_rng(0), 1.0)
    assert not usual.settled[:-1].any() and usual.settled[-1].all()  # none before its last row
    in_turn = follow(
        subject.stored.denoiser,
        subject.told(num_steps=20, settle=1.0).table(),
        12,
        np.random.default_rng(0),
        1.0,
    )
    words = len(in_turn.settled)
    assert in_turn.settled.sum(axis=1).tolist() == [
        *range(1, words),
        12,
    ]  # one word a step, and no step with nothing to do
    assert (
        words == 12 or (in_turn.ids[-1, words - 1 :] == subject.shards.end_id).all()
    )  # behind an end that stands all is end
    table = dataclasses.replace(never, settle_above=float(np.quantile(usual.probability[:-1], 0.9)))
    trajectory = follow(subject.stored.denoiser, table, 12, np.random.default_rng(0), 1.0)
    steps = len(trajectory.ids)
    assert trajectory.ids.shape == trajectory.probability.shape == trajectory.settled.shape == (steps, 12)
    assert len(trajectory.logsnr) == steps <= len(table)
    assert (np.diff(trajectory.settled.astype(int), axis=0) >= 0).all() and trajectory.settled.any()
    kept = trajectory.settled[:-1]
    assert (trajectory.ids[1:][kept] == trajectory.ids[:-1][kept]).all() and (
        trajectory.probability[1:][kept] == 1.0
    ).all()
