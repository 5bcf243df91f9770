"""Pieces -> which documents make which shard: limits, duplicates, the mixture of sources, and the cut.

A document's place is how far through its source it stands, from 0 to 1, and shards follow that order: so all
sources advance together, their shares hold over any stretch, and one source alone keeps its own order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from sunfish.config.schema.data import DataConfig
from sunfish.config.schema.sources import Source
from sunfish.errors import UserError
from sunfish.sharding.cutter import CHOSEN, Cutter
from sunfish.sharding.filters import is_enough
from sunfish.sharding.pieces import read_account, read_documents
from sunfish.text.shards import SPLITS

BEYOND_LIMIT, BEYOND_SHARE = "beyond the limit", "beyond its share"

Drops = Callable[[int, int], dict[str, np.ndarray]]  # (rank, documents) -> by kind, which are dropped
Within = dict[int, int]  # by piece, in order: how many of its first documents the source's limits let in

# One document that may be kept: what it counts, the tokens of its source before it, its place.
COUNTS = [(name, "<i8") for name in ("tokens", "bytes", "before")]
ROW = np.dtype([("document", "<u4"), ("held_out", "?"), *COUNTS, ("place", "<f8")])


class Block(NamedTuple):
    """Documents of one piece, in order."""

    piece: int
    rows: np.ndarray  # of ROW


@dataclass
class SourceAccount:
    """What became of a source's documents after they were tokenized."""

    pieces: list[int] = field(default_factory=list)  # those that count; what stands behind the limit does not
    dropped: Counter[str] = field(default_factory=Counter)
    dropped_tokens: Counter[str] = field(default_factory=Counter)
    documents: int = 0
    tokens: int = 0
    bytes: int = 0

    def keep(self, rows: np.ndarray, sign: int = 1) -> None:
        """Count kept documents; with sign -1, take them back."""
        self.documents += sign * len(rows)
        self.tokens += sign * int(rows["tokens"].sum())
        self.bytes += sign * int(rows["bytes"].sum())

    def drop(self, kind: str, rows: np.ndarray) -> None:
        """Count dropped documents."""
        self.dropped[kind] += len(rows)
        self.dropped_tokens[kind] += int(rows["tokens"].sum())


def documents_within(folder: Path, source: Source, ranks: list[int]) -> Within:
    """Return what a source's limits let in, without the pieces behind the one that reaches a limit."""
    within: Within = {}
    selection = source.selection()
    max_documents, max_tokens = selection.max_documents, selection.max_tokens
    num_documents = num_tokens = 0
    for rank in ranks:
        ends = np.concatenate(([0], read_documents(folder, rank)["end"])).astype(np.int64)
        count = len(ends) - 1
        if max_documents is not None:
            count = min(count, max_documents - num_documents)
        if max_tokens is not None:  # the document that reaches it is let in
            count = min(count, int(np.searchsorted(num_tokens + ends[:-1], max_tokens)))
        within[rank] = count
        num_documents, num_tokens = num_documents + count, num_tokens + int(ends[count])
        if is_enough(source, num_documents, num_tokens):
            break
    return within


def choose(
    folder: Path, section: DataConfig, within: dict[str, Within], drops: Drops, out: Path
) -> tuple[list[str], dict[str, SourceAccount]]:
    """Write which documents each shard holds; return the shards' names and what became of each source.

    One block of each source and one shard's choice are in memory at a time.

    Raises:
        UserError: nothing is kept of a source.
    """

    def kept(name: str, account: SourceAccount) -> Iterator[Block]:
        return _kept(folder, within[name], drops, account)

    totals = {name: _total(folder, name, kept) for name in within}
    budgets, accounts = _budgets(section, totals), {name: SourceAccount() for name in within}
    streams = [
        _placed(kept(name, account), budgets[name], account, (section.mixing_seed, number))
        for number, (name, account) in enumerate(accounts.items())
    ]
    cutters = {split: Cutter(out, split, section.shard_tokens) for split in SPLITS}
    for blocks in _merge(streams):
        for split, cutter in cutters.items():
            cutter.add(*_side(blocks, split == "heldout"))
    names = [name for cutter in cutters.values() for name in cutter.close()]
    return names, accounts


def _total(folder: Path, name: str, kept: Callable[[str, SourceAccount], Iterator[Block]]) -> int:
    account = SourceAccount()
    for _ in kept(name, account):
        pass
    if account.tokens == 0:
        _say_nothing_kept(folder, name, account)
    return account.tokens


def _kept(folder: Path, within: Within, drops: Drops, account: SourceAccount) -> Iterator[Block]:
    """Yield a source's documents within its limits, without duplicates."""
    before = 0
    for rank, count in within.items():
        rows = _rows(read_documents(folder, rank))
        account.pieces.append(rank)
        account.drop(BEYOND_LIMIT, rows[count:])
        keep = np.arange(len(rows)) < count
        for kind, dropped in drops(rank, len(rows)).items():
            account.drop(kind, rows[keep & dropped])
            keep &= ~dropped
        rows = rows[keep]
        rows["before"] = before + np.cumsum(rows["tokens"]) - rows["tokens"]
        before += int(rows["tokens"].sum())
        account.keep(rows)
        if len(rows):
            yield Block(rank, rows)


def _rows(documents: np.ndarray) -> np.ndarray:
    rows = np.zeros(len(documents), ROW)
    rows["document"] = np.arange(len(documents))
    rows["tokens"] = np.diff(documents["end"].astype(np.int64), prepend=0)
    rows["bytes"], rows["held_out"] = documents["bytes"], documents["held_out"]
    return rows


def _budgets(section: DataConfig, totals: dict[str, int]) -> dict[str, int]:
    """Return each source's tokens: all without weights, else as many as go without repeating any."""
    weights = {name: section.sources[name].weight for name in totals}
    given = {name: weight for name, weight in weights.items() if weight is not None}
    if not given:
        return totals
    unit = min(totals[name] / weight for name, weight in given.items())
    return {name: min(totals[name], max(1, round(unit * weight))) for name, weight in given.items()}


def _placed(
    blocks: Iterator[Block], budget: int, account: SourceAccount, seed: tuple[int, int]
) -> Iterator[Block]:
    """Yield blocks with places, seeded points in each document's stretch of the source, up to the budget."""
    for piece, rows in blocks:
        within = int(np.searchsorted(rows["before"], budget))
        account.keep(rows[within:], -1)
        account.drop(BEYOND_SHARE, rows[within:])
        jitter = np.random.default_rng((*seed, piece)).random(len(rows))
        rows["place"] = (rows["before"] + jitter * rows["tokens"]) / budget
        if within:
            yield Block(piece, rows[:within])


def _merge(streams: list[Iterator[Block]]) -> Iterator[list[Block]]:
    """Yield groups of blocks; each group's places lie before the next one's."""
    heads = [next(stream, None) for stream in streams]
    while any(head is not None for head in heads):
        horizon = min(float(head.rows["place"][-1]) for head in heads if head is not None)
        group = []
        for number, head in enumerate(heads):
            if head is None:
                continue
            within = int(np.searchsorted(head.rows["place"], horizon, side="right"))
            group.append(Block(head.piece, head.rows[:within]))
            rest = head.rows[within:]
            heads[number] = Block(head.piece, rest) if len(rest) else next(streams[number], None)
        yield group


def _side(blocks: list[Block], held_out: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return a group's documents of one split, in the order of their places, and their tokens."""
    rows = np.concatenate([block.rows for block in blocks])
    chosen = np.empty(len(rows), CHOSEN)
    chosen["piece"] = np.repeat([block.piece for block in blocks], [len(block.rows) for block in blocks])
    chosen["document"] = rows["document"]
    order = np.argsort(rows["place"], kind="stable")
    order = order[rows["held_out"][order] == held_out]
    return chosen[order], rows["tokens"][order]


def _say_nothing_kept(folder: Path, name: str, account: SourceAccount) -> NoReturn:
    filtered = (Counter(read_account(folder, rank)["dropped"]) for rank in account.pieces)
    dropped = sum(filtered, account.dropped)
    by = ", ".join(f"{count:,} by {kind!r}" for kind, count in dropped.most_common() if count)
    became = f"Dropped: {by}" if by else "It holds none"
    raise UserError(f"data.sources.{name}: no document is left. {became}; look at its files and filters")
