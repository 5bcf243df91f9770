from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sunfish.errors import UserError
from sunfish.text.tokenizer import (
    END,
    Tokenizer,
    load_pretrained,
    read_tokenizer,
    train_tokenizer,
    write_tokenizer,
)

TEXTS = ["the cat sat on the mat .", "the dog sat on the log ."] * 20
TRAINED = train_tokenizer(TEXTS, 300)
OF_WORDS = train_tokenizer(TEXTS, 300, "words")


@pytest.mark.parametrize("tokenizer", [TRAINED, OF_WORDS])
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("tokenizer", [TRAINED, OF_WORDS])
def test_an_end_token_in_a_text_is_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(f"a {END} b")
    assert tokenizer.end_id not in ids
    assert tokenizer.decode_row([*ids, tokenizer.end_id, 5]) == f"a {END} b"


def test_words_of_the_corpus_are_one_token_and_no_entry_is_half_a_word() -> None:
    assert (
        OF_WORDS.vocab_size == 1 + 256 + 9
    )  # the, " the", " cat", " sat", " on", " mat", " .", " dog", " log"
    assert [len(OF_WORDS.encode(text)) for text in TEXTS[:2]] == [7, 7]
    assert len(OF_WORDS.encode(" cats")) == 5  # another word: its bytes
    assert train_tokenizer(TEXTS, 260, "words").vocab_size == 260  # the most frequent ones


def test_training_is_deterministic(tmp_path: Path) -> None:
    texts = [f"some words {i % 7} and {i % 11} more" for i in range(500)]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_tokenizer(train_tokenizer(texts, 320), tmp_path / name)
    assert (tmp_path / "a" / "tokenizer.json").read_bytes() == (
        tmp_path / "b" / "tokenizer.json"
    ).read_bytes()


@pytest.mark.slow
def test_transformers_loads_what_is_written(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    for tokenizer in (TRAINED, OF_WORDS):
        write_tokenizer(tokenizer, tmp_path)
        theirs = AutoTokenizer.from_pretrained(tmp_path)
        assert theirs("the cats sat .", add_special_tokens=False)["input_ids"] == tokenizer.encode(
            "the cats sat ."
        )
        assert theirs.eos_token_id == tokenizer.end_id


def test_gpt2_by_path(real_data: Path) -> None:
    tokenizer: Tokenizer = load_pretrained(str(real_data / "gpt2" / "tokenizer.json"))
    assert tokenizer.encode("Hello world") == [15496, 995]
    assert (tokenizer.vocab_size, tokenizer.end_id) == (50257, 50256)


def test_bad_tokenizers_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_pretrained(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="tokenizer.json: no such file"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="is not a tokenizer"):
        read_tokenizer(tmp_path)


def test_half_a_surrogate_pair_is_no_text() -> None:
    with pytest.raises(UserError, match="surrogate"):
        TRAINED.encode("a\ud800")
