"""Text <-> ids: a byte-level BPE trained on the corpus, or a pretrained tokenizer by name or path."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from sunfish.errors import UserError
from sunfish.files import project_root
from sunfish.text.hub import go_offline_if_unreachable

END = "<|endoftext|>"
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{{ eos_token }}{% endfor %}"
LONG_RUN = re.compile(r"\S{1000}|\s{1000}")
END_TOKENS = (END, "<|end_of_text|>", "</s>", "<eos>", "[SEP]")


class Tokenizer:
    """A tokenizer with one end token, which closes documents and fills the rest of a row.

    Raises:
        UserError: no end token is in the vocabulary.
    """

    def __init__(self, backend: tokenizers.Tokenizer, source: str = "tokenizer") -> None:
        self.backend = backend
        self.backend.no_padding()
        self.backend.no_truncation()
        self.backend.encode_special_tokens = True  # "<|endoftext|>" written in a text is text, not an end
        self.end = next((token for token in END_TOKENS if backend.token_to_id(token) is not None), "")
        if not self.end:
            raise UserError(f"{source}: has no end token; one of {', '.join(END_TOKENS)} is needed")
        self.end_id = int(backend.token_to_id(self.end) or 0)
        self.vocab_size: int = backend.get_vocab_size()
        self.chat_template: str | None = None  # to be written with it, where documents have turns

    def encode(self, text: str) -> list[int]:
        """Return ids without an end token; `decode` gives the text back, whatever its characters."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = f"half a surrogate pair at character {error.start}, which is no character"
            raise UserError(f"the text holds {half}") from error
        ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of many texts, in order, on all cores."""
        return [encoding.ids for encoding in self.backend.encode_batch(texts, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, end tokens included."""
        text: str = self.backend.decode(list(ids), skip_special_tokens=False)
        return text

    def decode_row(self, ids: Sequence[int]) -> str:
        """Return the text before the first end token."""
        ids = list(ids)
        return self.decode(ids[: ids.index(self.end_id)] if self.end_id in ids else ids)


def instruction_ids(tokenizer: Tokenizer, instruction: str) -> list[int]:
    """Return what stands before an answer, as `CHAT_TEMPLATE` has it: the instruction and an end token.

    Raises:
        UserError: the instruction is empty.
    """
    if not instruction.strip():
        raise UserError("the instruction is empty; say what to write, or write freely without one")
    return [*tokenizer.encode(instruction), tokenizer.end_id]


def train_tokenizer(documents: Iterable[str], vocab_size: int, unit: str = "pieces") -> Tokenizer:
    """Train a byte-level BPE; all 256 bytes are in it, so every text can be encoded.

    With `unit` "words" nothing is merged: the corpus' most frequent words are entries as they are, all else
    is bytes, and no entry is spent on half a word."""
    documents = (part for document in documents for part in _without_long_runs(document))
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if unit == "words":
        backend = tokenizers.Tokenizer(_bpe_of_words(documents, splitter, vocab_size))
        backend.add_special_tokens([END])
    else:
        backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = splitter
    backend.decoder = decoders.ByteLevel()
    if unit == "pieces":
        _learn_merges(backend, documents, vocab_size)
    return Tokenizer(backend)


def _without_long_runs(document: str) -> list[str]:
    """Cut a document inside runs that are no word of any language: merging takes time by their square."""
    cuts = [0, *(run.end() for run in LONG_RUN.finditer(document)), len(document)]
    return [document[start:stop] for start, stop in pairwise(cuts) if start < stop]


def _bpe_of_words(documents: Iterable[str], splitter: pre_tokenizers.ByteLevel, size: int) -> models.BPE:
    counts = Counter(word for document in documents for word, _ in splitter.pre_tokenize_str(document))
    first = [END, *sorted(splitter.alphabet())]
    words = sorted((word for word in counts if len(word) > 1), key=lambda word: (-counts[word], word))
    vocab = {entry: index for index, entry in enumerate([*first, *words][:size])}
    return models.BPE(vocab=vocab, merges=[], ignore_merges=True)


def _learn_merges(backend: tokenizers.Tokenizer, documents: Iterable[str], vocab_size: int) -> None:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END], initial_alphabet=letters, show_progress=False
    )
    backend.train_from_iterator(documents, trainer)


def load_pretrained(name: str) -> Tokenizer:
    """Return a tokenizer from a tokenizer.json, a folder that holds one, or the Hub by name.

    Raises:
        UserError: nothing there, or no network; it says what runs without one.
    """
    file = local_tokenizer(name)
    try:
        if file is not None:
            return Tokenizer(tokenizers.Tokenizer.from_file(str(file)), str(file))
        if name.endswith(".json") or name.startswith((".", "/", "~")):
            raise UserError(f"data.tokenizer.pretrained: {name}: no such file")
        go_offline_if_unreachable()
        return Tokenizer(tokenizers.Tokenizer.from_pretrained(name), name)
    except UserError:
        raise
    except Exception as error:  # the library raises bare Exception
        says = f"data.tokenizer.pretrained: {name!r} cannot be loaded ({str(error).splitlines()[0]})"
        advice = "Without a network, give the path of a tokenizer.json, or null to train one; data=stories "
        raise UserError(f"{says}. {advice}and data=files then need nothing from outside") from error


def local_tokenizer(name: str) -> Path | None:
    """Return the tokenizer.json that a path or a folder names, relative to the project, if it is there."""
    path = project_root() / Path(name).expanduser()
    file = path / "tokenizer.json" if path.is_dir() else path
    return file if file.is_file() else None


def unknown_id(tokenizer: Tokenizer) -> int | None:
    """Return the id of the token that stands for what the tokenizer does not know, if it has one."""
    model = json.loads(tokenizer.backend.to_str())["model"]
    index, token = model.get("unk_id"), model.get("unk_token")
    return index if isinstance(index, int) or token is None else tokenizer.backend.token_to_id(token)


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, as `transformers.AutoTokenizer` loads them."""
    tokenizer.backend.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": tokenizer.end,
        "pad_token": tokenizer.end,
        "clean_up_tokenization_spaces": False,
        **({"chat_template": tokenizer.chat_template} if tokenizer.chat_template else {}),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def read_tokenizer(folder: Path) -> Tokenizer:
    """Read what `write_tokenizer` wrote.

    Raises:
        UserError: the file is missing or is no tokenizer.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise UserError(f"{file}: no such file; the folder is not complete")
    try:
        return Tokenizer(tokenizers.Tokenizer.from_file(str(file)), str(file))
    except UserError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{file}: is not a tokenizer ({error})") from error
