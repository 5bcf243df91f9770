"""Texts -> ids at the speed of a corpus: by tiktoken where its ids are the tokenizer's own, else by the
tokenizer; long texts in parts.

Byte-pair merging is the same in both if every entry of the vocabulary is made of its own bytes: whatever
state a text passes through inside an entry's span, the entry alone passes through too, so a pair that joins
to the entry is the pair of its merge."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import tiktoken
from tokenizers import pre_tokenizers

from sunfish.documents import reason_of
from sunfish.text.shards import token_dtype
from sunfish.text.tokenizer import Tokenizer, read_tokenizer

# The library's pattern for ByteLevel, with possessive repeats where they match the same.
WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
LONG_CHARACTERS = 2**20  # a longer document is encoded in parts: the tokenizer holds a hundred bytes a token
# a space between letters or digits begins a word in every byte-level pre-tokenizer
WORD_BREAK = re.compile(r"(?<=[^\W_]) (?=[^\W_])")


class Encoder:
    """A tokenizer for many texts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.dtype = tokenizer, token_dtype(tokenizer.vocab_size)
        self.fast = _fast_encoding(tokenizer)

    def encode(self, texts: list[str]) -> Iterator[np.ndarray | Exception]:
        """Yield each text's ids and the end token, as shards hold them, or why a text has none.

        Memory is bounded however long a text is."""
        end = np.array([self.tokenizer.end_id], self.dtype)
        encoded = iter(self._encode_batch([text for text in texts if len(text) <= LONG_CHARACTERS]))
        for text in texts:
            short = len(text) <= LONG_CHARACTERS
            parts = [next(encoded)] if short else [self._encode(part) for part in self.split_long(text)]
            failed = next((part for part in parts if isinstance(part, Exception)), None)
            yield failed or np.concatenate([*parts, end])

    def _encode_batch(self, texts: list[str]) -> list[np.ndarray | Exception]:
        if self.fast is not None:
            return [self._encode(text) for text in texts]
        try:
            return [np.array(ids, self.dtype) for ids in self.tokenizer.encode_batch(texts)]
        except BaseException as error:
            _as_failure(error)
            return [self._encode(text) for text in texts]  # one of them, but which?

    def _encode(self, text: str) -> np.ndarray | Exception:
        """Return a text's ids: the fast way, else the tokenizer's own, or why there are none."""
        if self.fast is not None:
            encoding, ids = self.fast
            try:
                return ids[encoding.encode_to_numpy(text, disallowed_special=())]
            except BaseException as error:  # a run of a million spaces is too much for its pattern
                _as_failure(error)
        try:
            return np.array(self.tokenizer.encode(text), self.dtype)
        except BaseException as error:
            return _as_failure(error)

    def split_long(self, text: str) -> Iterator[str]:
        """Yield parts of a long text whose ids, one after another, are the whole's.

        Only a byte-level pre-tokenizer is known to break at a space between two words; others get the whole.
        """
        start = 0
        while _is_byte_level(self.tokenizer) and len(text) - start > LONG_CHARACTERS:
            found = WORD_BREAK.search(text, start + LONG_CHARACTERS)
            if found is None:
                break
            yield text[start : found.start()]
            start = found.start()
        yield text[start:]


def _as_failure(error: BaseException) -> Exception:
    """Return a library's failure with a text, also a panic in Rust, no `Exception`; raise the rest."""
    if isinstance(error, MemoryError | KeyboardInterrupt | SystemExit | GeneratorExit):
        raise error
    return error if isinstance(error, Exception) else RuntimeError(reason_of(error))


@lru_cache(maxsize=1)
def open_encoder(folder: Path) -> Encoder:
    """Return the encoder of a tokenizer's folder; one for all tasks of a process."""
    return Encoder(read_tokenizer(folder))


def _is_byte_level(tokenizer: Tokenizer) -> bool:
    splitter = tokenizer.backend.pre_tokenizer
    return (
        tokenizer.backend.normalizer is None
        and isinstance(splitter, pre_tokenizers.ByteLevel)
        and not splitter.add_prefix_space
    )


def _fast_encoding(tokenizer: Tokenizer) -> tuple[tiktoken.Encoding, np.ndarray] | None:
    """Return tiktoken's encoding and the id of each of its ranks; None where ids would differ."""
    backend = tokenizer.backend
    model = json.loads(backend.to_str())["model"]
    changed = ("dropout", "ignore_merges", "byte_fallback", "continuing_subword_prefix", "end_of_word_suffix")
    usual = model.get("type") == "BPE" and not any(model.get(key) for key in changed)
    if not (usual and _is_byte_level(tokenizer) and getattr(backend.pre_tokenizer, "use_regex", False)):
        return None
    vocab: dict[str, int] = model["vocab"]
    merged = ["".join(merge if isinstance(merge, list) else merge.split(" ")) for merge in model["merges"]]
    entries = list(dict.fromkeys([*sorted(pre_tokenizers.ByteLevel.alphabet()), *merged]))
    made_once = len(set(merged)) == len(merged) and all(entry in vocab for entry in entries)
    if not made_once or any(len(backend.model.tokenize(entry)) != 1 for entry in entries):
        return None
    of_letter = _bytes_of_letters()
    ranks = {bytes(of_letter[letter] for letter in entry): rank for rank, entry in enumerate(entries)}
    encoding = tiktoken.Encoding("sunfish", pat_str=WORDS, mergeable_ranks=ranks, special_tokens={})
    return encoding, np.array([vocab[entry] for entry in entries], token_dtype(tokenizer.vocab_size))


def _bytes_of_letters() -> dict[str, int]:
    """Return each letter's byte in a byte-level vocabulary: printable ones their own, others from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + k): byte for k, byte in enumerate(others)}
