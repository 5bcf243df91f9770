"""The sample of documents that a tokenizer is trained on, and held against."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from sunfish.config.schema.data import DataConfig
from sunfish.errors import UserError
from sunfish.sharding import sample
from sunfish.sharding.plan import make_plan
from sunfish.sharding.sample import training_sample
from sunfish.text.stories import write_stories
from sunfish.text.tokenizer import load_pretrained, train_tokenizer
from tests.corpora import files, run, with_sources, write_jsonl

ENGLISH = [f"the river runs past an old mill {i}" for i in range(300)]
GREEK = [f"ποτάμι μύλος γάτα αλεύρι πρωί {i}" for i in range(300)]


def shares(texts: list[str]) -> list[float]:
    """Of the Greek ones among all, over quarters of the whole."""
    quarter = len(texts) // 4
    return [sum("μ" in text for text in texts[k * quarter : (k + 1) * quarter]) / quarter for k in range(4)]


@pytest.mark.parametrize("in_one_file", [True, False])
def test_the_sample_is_of_all_files_and_of_all_of_a_file(
    section: DataConfig, tmp_path: Path, in_one_file: bool
) -> None:
    write_jsonl(tmp_path / "a.jsonl", ENGLISH + (GREEK if in_one_file else []))
    write_jsonl(tmp_path / "b.jsonl", GREEK[:1] if in_one_file else GREEK)
    plan = make_plan(with_sources(section, files=files(tmp_path / "*.jsonl")))
    drawn = list(training_sample(plan, 200))
    assert len(drawn) == 200 and sum("μ" in text for text in drawn) in range(70, 131)
    one_task = make_plan(with_sources(section, small_tasks=False, files=files(tmp_path / "*.jsonl")))
    assert list(training_sample(one_task, 200)) == drawn


def test_of_much_input_the_beginnings_of_spans_all_over_it_are_read(
    section: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "SAMPLE_BYTES", 20_000)
    for number in range(40):
        write_jsonl(tmp_path / f"{number:02}.jsonl", (ENGLISH if number < 20 else GREEK)[:200])
    plan = make_plan(with_sources(section, files=files(tmp_path / "*.jsonl")))
    drawn = list(training_sample(plan, 10_000))
    assert 300 < len(drawn) < 1000 and sum("μ" in text for text in drawn) in range(100, len(drawn) - 100)


def test_stories_give_their_first_and_limits_bound_the_sample(section: DataConfig, tmp_path: Path) -> None:
    assert list(training_sample(make_plan(section), 20)) == list(itertools.islice(write_stories(0), 20))
    write_jsonl(tmp_path / "a.jsonl", ENGLISH)
    limited = make_plan(with_sources(section, files=files(tmp_path / "a.jsonl", max_documents=30)))
    assert sorted(training_sample(limited, 1000)) == sorted(ENGLISH[:30])
    limited = make_plan(with_sources(section, files=files(tmp_path / "a.jsonl", max_tokens=100)))
    assert 10 < len(list(training_sample(limited, 1000))) < 40


def test_a_huge_document_is_cut_and_the_sample_bounded(
    section: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl(tmp_path / "a.jsonl", [*ENGLISH, "x" * 3_000_000])
    plan = make_plan(with_sources(section, files=files(tmp_path / "a.jsonl")))
    assert max(map(len, training_sample(plan, 1000))) == sample.DOCUMENT_CHARACTERS
    monkeypatch.setattr(sample, "SAMPLE_CHARACTERS", 5000)
    monkeypatch.setattr(sample, "DOCUMENT_CHARACTERS", 500)
    assert 2000 < sum(map(len, training_sample(plan, 1000))) <= 5000


@pytest.mark.timeout(60)
@pytest.mark.parametrize("sign", ["河", " ", "^", "x"])
def test_a_run_of_signs_takes_no_time_by_its_square(sign: str) -> None:
    tokenizer = train_tokenizer([*ENGLISH, sign * 2_000_000], 300)
    assert tokenizer.decode(tokenizer.encode(sign * 50)) == sign * 50


# ---- a tokenizer is held against the text ----


def word_pieces(path: Path, words: list[str], lower: bool = False) -> Path:
    vocab = {"[UNK]": 0, "[SEP]": 1, **{word: index for index, word in enumerate(words, 2)}}
    backend = tokenizers.Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if lower:
        backend.normalizer = normalizers.Lowercase()
    backend.save(str(path))
    return path


def with_tokenizer(section: DataConfig, path: Path, **changes: float) -> DataConfig:
    size = tokenizers.Tokenizer.from_file(str(path)).get_vocab_size()
    tokenizer = dataclasses.replace(section.tokenizer, pretrained=str(path), vocab_size=size, **changes)
    changed = dataclasses.replace(section, tokenizer=tokenizer, task_bytes=2**20)
    object.__setattr__(changed, "task_bytes", section.task_bytes)
    return changed


def test_a_tokenizer_of_another_language_is_refused_unless_it_is_wanted(
    section: DataConfig, tmp_path: Path
) -> None:
    path = word_pieces(tmp_path / "wordpiece.json", sorted({w for text in ENGLISH for w in text.split()}))
    greek = with_sources(section, files=files(write_jsonl(tmp_path / "a.jsonl", GREEK)))
    says = r"max_unknown_share = 0.01: .*wordpiece.json does not fit .* [1-9][\d.]+ % of the tokens"
    with pytest.raises(UserError, match=says):
        run(with_tokenizer(greek, path), tmp_path / "out")
    with pytest.raises(
        UserError, match=r"max_altered_share = 0.1: .* 100.0 % of the documents do not come back"
    ):
        run(with_tokenizer(greek, path, max_unknown_share=1.0), tmp_path / "out")
    wanted = with_tokenizer(greek, path, max_unknown_share=1.0, max_altered_share=1.0)
    found = run(wanted, tmp_path / "out").fidelity
    assert found.documents == 300 and found.unknown_share > 0.5 and found.altered_share == 1.0


def test_a_tokenizer_is_held_against_all_of_a_file(section: DataConfig, tmp_path: Path) -> None:
    path = word_pieces(tmp_path / "wordpiece.json", sorted({w for text in ENGLISH for w in text.split()}))
    mixed = files(write_jsonl(tmp_path / "a.jsonl", [*ENGLISH * 4, *GREEK]))
    tolerant = {"max_unknown_share": 1.0, "max_altered_share": 1.0}
    plan = make_plan(with_tokenizer(with_sources(section, small_tasks=False, files=mixed), path, **tolerant))
    found = sample.measure_fidelity(load_pretrained(str(path)), plan)
    assert found.documents == 512 and found.unknown_share > 0.05


def test_a_trained_tokenizer_gives_every_text_back(section: DataConfig, tmp_path: Path) -> None:
    changed = with_sources(section, files=files(write_jsonl(tmp_path / "a.jsonl", ENGLISH + GREEK)))
    assert run(changed, tmp_path).fidelity[1:] == (0.0, 0.0)


def test_the_unknown_token_is_found_by_name_or_id(tmp_path: Path) -> None:
    from sunfish.text.tokenizer import unknown_id

    path = word_pieces(tmp_path / "t.json", ["a"])
    assert unknown_id(load_pretrained(str(path))) == 0
    unigram = tokenizers.Tokenizer(models.Unigram([("</s>", 0.0), ("<unk>", -1.0), ("a", -2.0)], unk_id=1))
    unigram.save(str(path))
    assert unknown_id(load_pretrained(str(path))) == 1
    assert unknown_id(train_tokenizer(["a"], 300)) is None
    assert json.loads(path.read_text())["model"]["type"] == "Unigram"
