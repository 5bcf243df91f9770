"""A sample of the sources' documents: what a tokenizer is trained on, and held against."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from sunfish.config.schema.data import Tokenizer as TokenizerConfig
from sunfish.config.schema.sources import Source
from sunfish.documents import Record, Span
from sunfish.errors import UserError
from sunfish.sharding.counts import SPREAD
from sunfish.sharding.plan import Plan
from sunfish.sharding.steps import Account, kept_records, place_of
from sunfish.text.tokenizer import Tokenizer, unknown_id

SAMPLE_BYTES = 2**30  # of input; of a larger one, the beginnings of spans all over it are read
MAX_SPANS = 256
SAMPLE_CHARACTERS, DOCUMENT_CHARACTERS = 2**27, 2**17  # what is held at most, of one document too
TEXT_BYTES_PER_TOKEN = 6  # at most, for how far a limit in tokens may reach
CHECKED_BYTES, CHECKED_SPANS, CHECKED_DOCUMENTS, CHECKED_CHARACTERS = 2**28, 16, 512, 10_000


class Fidelity(NamedTuple):
    """How well a tokenizer fits a sample of documents."""

    documents: int
    unknown_share: float  # of the tokens: those that stand for what the tokenizer does not know
    altered_share: float  # of the documents: those that encoding and decoding change


def training_sample(plan: Plan, count: int) -> Iterator[str]:
    """Yield `count` documents, as many of each source, drawn by their hashes from all of its files."""
    by_source = spans_by_source(plan)
    for number, (name, spans) in enumerate(by_source.items()):
        share = count * (number + 1) // len(by_source) - count * number // len(by_source)
        yield from _drawn(plan.section.sources[name], spans, share, (SAMPLE_BYTES, MAX_SPANS))


def spans_by_source(plan: Plan) -> dict[str, list[Span]]:
    """Return the spans of each source, in order."""
    by_source: dict[str, list[Span]] = {}
    for task in plan.tasks:
        by_source.setdefault(task.source, []).extend(task.spans)
    return by_source


def _kept(source: Source, spans: Iterable[Span]) -> Iterator[tuple[Record, bytes]]:
    return kept_records(source, tuple(spans), Account())


def _drawn(source: Source, spans: list[Span], count: int, within: tuple[int, int]) -> Iterable[str]:
    """Return `count` documents, drawn by their hashes from so many bytes of so many spans at most.

    A source whose documents are exchangeable gives its first, and one with a limit only what lies within.
    """
    if source.exchangeable:
        return (record.text for record, _ in islice(_kept(source, spans), count))
    return _lowest_hashes(_candidates(source, spans, *within), count)


def _candidates(
    source: Source, spans: list[Span], num_bytes: int, num_spans: int
) -> Iterator[tuple[Record, bytes]]:
    """Yield what may be drawn: all within the limits, or of much input the beginnings of some spans."""
    selection = source.selection()
    if selection.max_documents is not None or selection.max_tokens is not None:
        limit = num_bytes if selection.max_tokens is None else TEXT_BYTES_PER_TOKEN * selection.max_tokens
        first = islice(_kept(source, spans), selection.max_documents)
        yield from _up_to(first, min(limit, num_bytes))
    elif sum(span.stop - span.start for span in spans) <= num_bytes:
        yield from _kept(source, spans)
    else:
        chosen = _spread(spans, num_spans)
        for span in chosen:
            yield from _up_to(_kept(source, [span]), num_bytes // len(chosen))


def _spread(spans: list[Span], count: int) -> list[Span]:
    return [spans[i * len(spans) // count] for i in range(count)] if len(spans) > count else spans


def _up_to(records: Iterator[tuple[Record, bytes]], num_bytes: int) -> Iterator[tuple[Record, bytes]]:
    for record, text in records:
        yield record, text
        num_bytes -= len(text)
        if num_bytes <= 0:
            return


def _lowest_hashes(records: Iterator[tuple[Record, bytes]], count: int) -> list[str]:
    """Return the documents whose hashes come first, by another order than the split's, cut to a length."""
    heap: list[tuple[int, int, str]] = []
    characters = 0
    for number, (record, text) in enumerate(records):
        document = record.text[:DOCUMENT_CHARACTERS]
        heapq.heappush(heap, (-(place_of(text) * SPREAD % 2**64), number, document))
        characters += len(document)
        while len(heap) > count or characters > SAMPLE_CHARACTERS:
            characters -= len(heapq.heappop(heap)[2])
    return [document for _, _, document in sorted(heap, reverse=True)]


def measure_fidelity(tokenizer: Tokenizer, plan: Plan) -> Fidelity:
    """Encode and decode documents of some spans of each source, drawn by their hashes."""
    by_source, unknown = spans_by_source(plan), unknown_id(tokenizer)
    num_documents = num_tokens = num_unknown = num_altered = 0
    for name, spans in by_source.items():
        share = -(-CHECKED_DOCUMENTS // len(by_source))
        for document in _drawn(plan.section.sources[name], spans, share, (CHECKED_BYTES, CHECKED_SPANS)):
            text = document[:CHECKED_CHARACTERS]
            ids = tokenizer.encode(text)
            num_documents, num_tokens = num_documents + 1, num_tokens + len(ids)
            num_unknown += ids.count(unknown) if unknown is not None else 0
            num_altered += tokenizer.decode(ids) != text
    shares = num_unknown / max(1, num_tokens), num_altered / max(1, num_documents)
    return Fidelity(num_documents, *shares)


def require_fidelity(found: Fidelity, config: TokenizerConfig) -> None:
    """Refuse a tokenizer that does not fit the documents.

    Raises:
        UserError: too many unknown tokens, or too many documents that do not come back.
    """
    name = config.pretrained or "the trained tokenizer"
    for key, share, what in (
        ("max_unknown_share", found.unknown_share, "of the tokens stand for what it does not know"),
        ("max_altered_share", found.altered_share, "of the documents do not come back as they were"),
    ):
        if share > getattr(config, key):
            setting = f"params.yaml: data.tokenizer.{key} = {getattr(config, key)}"
            sample = f"of a sample of {found.documents} documents, {100 * share:.1f} % {what}"
            advice = "Use a tokenizer that was made for them, or null to train one; to use it all the same, "
            raise UserError(f"{setting}: {name} does not fit these texts: {sample}. {advice}set {key} higher")
