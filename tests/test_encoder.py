from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from sunfish.sharding import encoder as encoders
from sunfish.sharding.encoder import Encoder
from sunfish.text.tokenizer import Tokenizer, load_pretrained, train_tokenizer

WORDS = [
    "ab cé 三 11 a. b' c ab ab it's we'll  x\n\n y\t",
    "the cat sat on the mat, the hat; 1234 12 \u00e9\u0301",
] * 3


@pytest.fixture(scope="module", params=["pieces", "words", "gpt2"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    if request.param == "gpt2":
        real_data = request.getfixturevalue("real_data")
        return Encoder(load_pretrained(str(real_data / "gpt2" / "tokenizer.json")))
    return Encoder(train_tokenizer(WORDS, 320, request.param))


@settings(max_examples=60)
@given(
    text=st.one_of(st.text(max_size=200), st.text(st.sampled_from("ab cé三1 .'\n\t"), max_size=200)),
    long=st.integers(1, 20),
)
def test_a_corpus_has_the_tokenizer_s_ids_in_parts_or_not(encoder: Encoder, text: str, long: int) -> None:
    expected = [*encoder.tokenizer.encode(text), encoder.tokenizer.end_id]
    assert next(encoder.encode([text])).tolist() == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "LONG_CHARACTERS", long)
        assert "".join(encoder.split_long(text)) == text
        assert next(encoder.encode([text])).tolist() == expected


def test_the_fast_way_is_taken_where_it_is_the_same(encoder: Encoder) -> None:
    has_merges = bool(json.loads(encoder.tokenizer.backend.to_str())["model"]["merges"])
    assert (encoder.fast is not None) == has_merges


def test_a_vocabulary_with_an_entry_that_its_merges_do_not_make_goes_the_slow_way() -> None:
    alphabet = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocab = alphabet | {
        "<|endoftext|>": 256,
        "bc": 257,
        "ab": 258,
        "abc": 259,
    }  # bc comes first, so ab and c never meet
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[("b", "c"), ("a", "b"), ("ab", "c")]))
    backend.pre_tokenizer, backend.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    backend.add_special_tokens(["<|endoftext|>"])
    assert Encoder(Tokenizer(backend)).fast is None


@pytest.mark.slow
def test_every_character_of_unicode_has_the_tokenizer_s_ids(real_data: Path) -> None:
    encoder = Encoder(load_pretrained(str(real_data / "gpt2" / "tokenizer.json")))
    letters = [chr(code) for code in range(0, 0x110000, 3) if not 0xD800 <= code <= 0xDFFF]
    texts = [f"a{c}b1{c} {c}{c}.{c}2" for c in letters]
    for start in range(0, len(texts), 5000):
        part = texts[start : start + 5000]
        for ids, expected in zip(encoder.encode(part), encoder.tokenizer.encode_batch(part), strict=True):
            assert ids[:-1].tolist() == expected


@pytest.mark.slow
def test_real_text_has_the_tokenizer_s_ids(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder(load_pretrained(str(real_data / "gpt2" / "tokenizer.json")))
    texts = [
        text
        for path in sorted((real_data / "fineweb").glob("*.parquet"))
        for text in pq.read_table(path)["text"].to_pylist()
    ]
    texts.append((real_data / "tinystories" / "valid.txt").read_text(encoding="utf-8"))
    expected = [[*ids, encoder.tokenizer.end_id] for ids in encoder.tokenizer.encode_batch(texts)]
    assert [ids.tolist() for ids in encoder.encode(texts)] == expected
    monkeypatch.setattr(encoders, "LONG_CHARACTERS", 1000)
    assert len(list(encoder.split_long(texts[-1]))) > 500
    assert [ids.tolist() for ids in encoder.encode(texts)] == expected
