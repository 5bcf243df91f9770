"""A look at the data: one page and its pictures, of each source's documents as they were tokenized."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sunfish.config.convert import flatten
from sunfish.config.schema.data import DataConfig
from sunfish.files import replacing, write_text
from sunfish.page import render
from sunfish.pictures import ACCENT, INK, PALE, picture, write_csv
from sunfish.sharding.pieces import read_documents, read_unigrams
from sunfish.sharding.shard import Result
from sunfish.text.batches import RowDataset
from sunfish.text.shards import Shards

TEMPLATE = Path(__file__).with_name("data_report.html")
LENGTHS = np.unique(np.round(1.02 ** np.arange(1, 1200)).astype(np.int64))  # bins of 2 %, to 20 G tokens
COLOURS = (INK, ACCENT, PALE, "#7a9e3e", "#8e5ea2", "#c9a227")
LINES = ("-", "--", ":", "-.")  # of the sources behind the sixth, the twelfth and so on
TOP_HOSTS, TOP_TOKENS = 15, 25


@dataclass(frozen=True)
class SourceLook:
    """What one source's documents are like; all of its pieces that counted, before duplicates and limits."""

    name: str
    documents: int
    tokens: int
    bytes: int
    lengths: np.ndarray  # documents by bin of LENGTHS
    unigrams: np.ndarray  # (vocab,)
    text: dict[str, Any]  # of `TextCounts`

    def quantile(self, share: float) -> int:
        """Return how many tokens a document has at a quantile, to 2 %."""
        return int(LENGTHS[int(np.searchsorted(np.cumsum(self.lengths), share * self.documents))])

    def entropy_nats(self) -> float:
        """Return the entropy of single tokens: what a model that knows only their frequencies would pay."""
        p = self.unigrams[self.unigrams > 0] / self.unigrams.sum()
        return float(-(p * np.log(p)).sum())

    def vocabulary_used(self) -> float:
        """Return which share of the vocabulary occurs."""
        return float((self.unigrams > 0).mean())

    def share_of(self, ids: np.ndarray) -> float:
        """Return which share of the tokens are among `ids`."""
        return float(self.unigrams[ids].sum() / self.unigrams.sum())


def look_at(result: Result, name: str) -> SourceLook:
    """Gather what is known of a source."""
    folder, ranks = result.work.pieces, result.pieces[name]
    lengths, size = np.zeros(len(LENGTHS), np.int64), 0
    for rank in ranks:
        rows = read_documents(folder, rank)
        count = np.diff(rows["end"].astype(np.int64), prepend=0)
        lengths += np.bincount(np.searchsorted(LENGTHS, count), minlength=len(LENGTHS))
        size += int(rows["bytes"].sum())
    unigrams = sum((read_unigrams(folder, rank).astype(np.int64) for rank in ranks), np.int64(0))
    documents, tokens = int(lengths.sum()), int(unigrams.sum())
    return SourceLook(name, documents, tokens, size, lengths, np.asarray(unigrams), result.counts[name])


def write_data_report(
    path: Path, pictures: Path, section: DataConfig, result: Result, shards: Shards
) -> None:
    """Write the page and its pictures, each whole or not at all."""
    sources = [look_at(result, name) for name in section.sources]
    with replacing(pictures) as folder:
        folder.mkdir()
        draw_lengths(folder / "lengths.png", sources)
        draw_frequencies(folder / "frequencies.png", sources)
        counts = ((source.name, bin, int(n)) for source in sources for bin, n in enumerate(source.lengths))
        rows = ((name, int(LENGTHS[bin]), n) for name, bin, n in counts if n)
        write_csv(folder / "lengths.csv", ("source", "tokens_up_to", "documents"), rows)
    page = render(
        TEMPLATE,
        pictures,
        manifest=shards.manifest,
        digest=shards.digest(),
        sources=sources,
        samples={source.name: [text for _, text in source.text["samples"]] for source in sources},
        hosts={s.name: list(s.text["hosts"].items())[:TOP_HOSTS] for s in sources if s.text["hosts"]},
        tokens={source.name: top_tokens(source, shards) for source in sources},
        single_bytes=single_bytes(shards),
        rows={split: row_fill(shards, split, section) for split in shards.manifest["splits"]},
        settings=flatten(section),
    )
    write_text(path, page)


def single_bytes(shards: Shards) -> np.ndarray:
    """Return the ids of single bytes: what the tokenizer has no better word for."""
    vocab = shards.tokenizer.backend.get_vocab().items()
    return np.array([index for entry, index in vocab if len(entry) == 1 and not entry.isalnum()] or [0])


def top_tokens(source: SourceLook, shards: Shards) -> list[tuple[str, float]]:
    """Return the most frequent tokens and their shares."""
    ranked = [int(i) for i in np.argsort(-source.unigrams, kind="stable")[:TOP_TOKENS] if source.unigrams[i]]
    total = source.unigrams.sum()
    return [(shards.tokenizer.decode([i]), float(source.unigrams[i] / total)) for i in ranked]


def row_fill(shards: Shards, split: str, section: DataConfig) -> dict[str, float]:
    """Return how many rows a split has, and which share of their positions and of its tokens is used."""
    rows = RowDataset(shards, split, section)
    used = rows.tokens_in_rows()
    return {
        "rows": len(rows),
        "positions_filled": used / rows.num_positions(),
        "tokens_used": used / shards.num_tokens(split),
    }


def _line(number: int) -> dict[str, str]:
    """Return how a source's line looks, unlike any other's up to the twenty-fourth."""
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": LINES[number // len(COLOURS) % len(LINES)]}


def draw_lengths(path: Path, sources: list[SourceLook]) -> None:
    """Draw how long documents are."""

    def draw(axes: Any) -> None:
        for number, source in enumerate(sources):
            coarse = np.add.reduceat(source.lengths, np.arange(0, len(LENGTHS), 8)) / source.documents
            axes.step(LENGTHS[::8], 100 * coarse, where="post", label=source.name, **_line(number))
        used = np.flatnonzero(sum(source.lengths for source in sources))
        ends = LENGTHS[max(used[0] - 8, 0)], LENGTHS[min(used[-1] + 16, len(LENGTHS) - 1)]
        axes.set(xlabel="tokens per document", ylabel="% of documents", xscale="log", xlim=ends)
        axes.legend(frameon=False)

    picture(path, draw, "How long documents are")


def draw_frequencies(path: Path, sources: list[SourceLook]) -> None:
    """Draw token frequency by rank."""

    def draw(axes: Any) -> None:
        for number, source in enumerate(sources):
            ranked = -np.sort(-source.unigrams[source.unigrams > 0])
            ranks = np.arange(1, len(ranked) + 1)
            axes.plot(ranks, ranked / ranked.sum(), label=source.name, **_line(number))
        axes.set(xlabel="rank of the token", ylabel="share of all tokens", xscale="log", yscale="log")
        axes.legend(frameon=False)

    picture(path, draw, "How often tokens come")
