"""One task as a datatrove pipeline: read documents, keep those that the filters keep, write their ids."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from sunfish.config.schema.data import DataConfig
from sunfish.config.schema.sources import Source
from sunfish.documents import TURN, Record, Span, Unreadable, reason_of
from sunfish.errors import UserError
from sunfish.sharding.counts import TextCounts
from sunfish.sharding.encoder import Encoder, open_encoder
from sunfish.sharding.filters import UNREADABLE, Rule, is_enough, rules_of
from sunfish.sharding.pieces import PieceWriter, piece_path, read_documents, read_tokens, write_account
from sunfish.sharding.plan import read_task
from sunfish.text.shards import token_dtype, write_shard

HOLD_OUT_SPAN = 2**64
DOCUMENTS_AT_ONCE, CHARACTERS_AT_ONCE = 1000, 2**22


class Account:
    """What became of a task's documents: how many were read, dropped under which name, kept."""

    def __init__(self) -> None:
        self.documents_in = self.bytes_in = 0
        self.documents = self.tokens = 0  # kept so far, not yet cut to the limits
        self.dropped: Counter[str] = Counter()

    def lose(self, record: Unreadable, skip: bool) -> None:
        """Count records that cannot be read.

        Raises:
            UserError: they may not be left out.
        """
        if not skip:
            advice = "To leave out and count what cannot be read, set the source's unreadable: skip"
            raise UserError(f"{record.reason}. {advice}")
        self.dropped[UNREADABLE] += record.count
        self.documents_in += record.count

    def as_dict(self) -> dict[str, Any]:
        return {"documents_in": self.documents_in, "bytes_in": self.bytes_in, "dropped": dict(self.dropped)}


def kept_records(source: Source, spans: tuple[Span, ...], account: Account) -> Iterator[tuple[Record, bytes]]:
    """Yield the records that a source's filters keep, with their text in UTF-8.

    Raises:
        UserError: a record that cannot be read, where the source says that this is fatal.
    """
    rules, skip = rules_of(source), source.selection().skip_unreadable
    for span in spans:
        for record in source.read(span):
            judged = _judge(record, rules)
            if isinstance(judged, Unreadable):
                account.lose(judged, skip)
                continue
            assert isinstance(record, Record)
            text, dropped_by = judged
            account.documents_in += 1
            account.bytes_in += len(text)
            if dropped_by is None:
                yield record, text
            else:
                account.dropped[dropped_by] += 1


def _judge(record: Record | Unreadable, rules: dict[str, Rule]) -> tuple[bytes, str | None] | Unreadable:
    """Return a record's text in UTF-8 and the filter that drops it, if any."""
    if isinstance(record, Unreadable):
        return record
    try:
        text = record.text.encode()
        return text, next((name for name, keeps in rules.items() if not keeps(record)), None)
    except UnicodeEncodeError as error:
        half = f"holds half a surrogate pair at character {error.start}, which is no character"
        return Unreadable(f"{record.where}: {half}")
    except Exception as error:
        return Unreadable(f"{record.where}: {reason_of(error)}")


class ReadDocuments(PipelineStep):
    """A task's documents, as many as its source still wants."""

    type, name = "READER", "documents of a task"

    def __init__(self, tasks: Path, pieces: Path, section: DataConfig, ranks: dict[str, list[int]]) -> None:
        super().__init__()
        self.tasks_path, self.pieces, self.section, self.ranks = tasks, pieces, section, ranks
        self.account = Account()

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield datatrove's documents; their metadata holds the text in UTF-8 and where it is from."""
        task = read_task(self.tasks_path, rank)
        source = self.section.sources[task.source]
        if is_enough(source, *self._count_before(task.source, rank)):
            return
        selection = source.selection()
        for record, text in kept_records(source, task.spans, self.account):
            url = record.columns.get(selection.url_column) if selection.url_column else None
            self.account.documents += 1
            about = {"utf8": text, "url": url, "skip": selection.skip_unreadable, "turns": source.has_turns}
            yield Document(text=record.text, id=record.where, metadata=about)
            if is_enough(source, self.account.documents, self.account.tokens):
                return

    def _count_before(self, name: str, rank: int) -> tuple[int, int]:
        """Return the documents and tokens of a source's finished tasks before the first unfinished one."""
        selection, documents, tokens = self.section.sources[name].selection(), 0, 0
        if selection.max_documents is None and selection.max_tokens is None:
            return 0, 0
        for other in self.ranks[name]:
            if other >= rank or not piece_path(self.pieces, other, "json").is_file():
                break
            rows = read_documents(self.pieces, other)
            documents, tokens = documents + len(rows), tokens + (int(rows["end"][-1]) if len(rows) else 0)
        return documents, tokens


class WritePiece(PipelineStep):
    """Tokenize documents and write them as a piece; they are passed on to what finds duplicates."""

    type, name = "TOKENIZER", "ids of a task"

    def __init__(self, reader: ReadDocuments, tokenizer_folder: Path, held_out_share: float) -> None:
        super().__init__()
        self.reader, self.tokenizer_folder, self.held_out_share = reader, tokenizer_folder, held_out_share

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Write the piece of `rank`, and yield its documents in order."""
        encoder = open_encoder(self.tokenizer_folder)
        vocab_size = encoder.tokenizer.vocab_size
        pieces, counts = self.reader.pieces, TextCounts(vocab_size)
        with PieceWriter(pieces, rank, vocab_size) as writer:
            for batch in _batched(data):
                written: list[Document] = []
                for document, ids in zip(batch, _encode(encoder, batch), strict=True):
                    if isinstance(ids, Exception):
                        self._lose(document, ids)
                        continue
                    text: bytes = document.metadata["utf8"]
                    place = place_of(text)
                    writer.append(ids, len(text), place < self.held_out_share * HOLD_OUT_SPAN)
                    counts.add(document.text, text, ids, place, document.metadata["url"])
                    written.append(document)
                self.reader.account.tokens = writer.num_tokens
                yield from written
        account = self.reader.account.as_dict() | {"text": counts.as_dict()}
        write_account(pieces, rank, writer.documents(), counts.unigrams(), account)

    def _lose(self, document: Document, error: Exception) -> None:
        account = self.reader.account
        reason = f"{document.id}: cannot be tokenized ({reason_of(error)})"
        account.lose(Unreadable(reason), document.metadata["skip"])
        account.documents, account.documents_in = account.documents - 1, account.documents_in - 1


def _encode(encoder: Encoder, documents: list[Document]) -> Iterator[np.ndarray | Exception]:
    """Yield each document's ids, or why it has none; an end token follows each of its turns."""
    turns = [each.text.split(TURN) if each.metadata["turns"] else [each.text] for each in documents]
    encoded = encoder.encode([turn for each in turns for turn in each])
    for each in turns:
        parts = list(islice(encoded, len(each)))
        failed = next((part for part in parts if isinstance(part, Exception)), None)
        yield failed or np.concatenate([part for part in parts if not isinstance(part, Exception)])


def place_of(text: bytes) -> int:
    """Return a document's place in [0, 2^64), by its hash: equal documents share a side of a split."""
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")


def _batched(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if len(batch) == DOCUMENTS_AT_ONCE or characters >= CHARACTERS_AT_ONCE:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


class WriteShard(PipelineStep):
    """Copy the documents chosen for a shard out of the pieces."""

    type, name = "WRITER", "a shard"

    def __init__(self, choices: Path, pieces: Path, out: Path, names: list[str], vocab_size: int) -> None:
        super().__init__()
        self.choices, self.pieces, self.out, self.names = choices, pieces, out, names
        self.vocab_size = vocab_size

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Write the shard of `rank`."""
        name = self.names[rank]
        chosen = np.load(self.choices / f"{name}.npy", allow_pickle=False)
        write_shard(self.out, name, self._runs(chosen), token_dtype(self.vocab_size))

    def _runs(self, chosen: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        """Yield (ids, lengths, bytes) of documents that stand side by side in a piece."""
        piece, document = chosen["piece"], chosen["document"]
        begins = np.ones(len(chosen), bool)
        begins[1:] = (piece[1:] != piece[:-1]) | (document[1:] != document[:-1] + 1)
        open_piece = lru_cache(maxsize=64)(self._open)
        for run in np.split(chosen, np.flatnonzero(begins)[1:]) if len(chosen) else []:
            tokens, documents = open_piece(int(run["piece"][0]))
            first, last = int(run["document"][0]), int(run["document"][-1])
            before = documents["end"][first - 1] if first else 0
            ends = np.concatenate(([before], documents["end"][first : last + 1])).astype(np.int64)
            yield tokens[ends[0] : ends[-1]], np.diff(ends), int(documents["bytes"][first : last + 1].sum())

    def _open(self, piece: int) -> tuple[np.ndarray, np.ndarray]:
        return read_tokens(self.pieces, piece, self.vocab_size), read_documents(self.pieces, piece)
