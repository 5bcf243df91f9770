"""What a position sees: what was written before it, and what is in the making with it.

A text is written in turns. Given positions have turn 0, one that is done keeps the place at which its turn
came, and all that are in the making share a turn after those; a position sees the turns up to its own. A
clean position thus never sees a noisy one, and says the same however the rest of the text comes about.

In training a row stands there twice, so that every position can be asked about at once: a clean copy, in
which each position sees those before it, and a noisy one cut into blocks, each of which sees the clean copy
of what comes before it, and itself. Rows that have no noisy copy stand there in pairs.

Source: [BD3LM] section 3.2 (the two copies and their mask).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

OPEN = (
    2**20
    # the turn of what is in the making; what waits comes after it (below 2^24: some programs compare integers as
    # float32)
)

Turns = Int[Tensor, "batch pos"]
Known = Bool[Tensor, "batch pos"]
Seen = Bool[Tensor, "batch pos pos"]
Levels = Float[Tensor, "batch pos"]
Embeddings = Float[Tensor, "batch pos emb"]


class Sight(NamedTuple):
    """Which positions each one sees, those of all copies, one copy after the other; and which words the one
    behind them is told.
    """

    together: Bool[Tensor, "batch 1 pos pos"]
    copies: int = 1
    said: Known | None = None  # of one copy; None: all that are known


class Shown(NamedTuple):
    """What a denoiser is shown of some rows: a noisy copy, or a clean one and a noisy one behind it."""

    x: Embeddings
    logsnr: Levels
    known: Known
    sight: Sight

    def told(self, x_0_prev: Embeddings) -> tuple[Embeddings, Levels, Embeddings, Known, Sight]:
        """Return it as the denoiser's arguments."""
        return self.x, self.logsnr, x_0_prev, self.known, self.sight

    def beside(self, other: Shown) -> Shown:
        """Return these rows and, behind them, another's of as many positions."""
        ours, theirs = self.sight.said, other.sight.said
        said = None if ours is None or theirs is None else torch.cat((ours, theirs))
        sight = self.sight._replace(
            together=torch.cat((self.sight.together, other.sight.together)), said=said
        )
        x, logsnr, known = (
            torch.cat(pair)
            for pair in ((self.x, other.x), (self.logsnr, other.logsnr), (self.known, other.known))
        )
        return Shown(x, logsnr, known, sight)

    def rows(self, rows: Int[Tensor, " some"]) -> Shown:
        """Return some rows of it."""
        said = None if self.sight.said is None else self.sight.said[rows]
        return Shown(
            self.x[rows],
            self.logsnr[rows],
            self.known[rows],
            self.sight._replace(together=self.sight.together[rows], said=said),
        )


def show_noisy(x_t: Embeddings, logsnr: Levels, known: Known, document: Turns | None = None) -> Shown:
    """Show one copy, all of whose unknown positions are in the making together."""
    return Shown(x_t, logsnr, known, see_turns(torch.where(known, 0, OPEN), document))


def show_copies(
    x_0: Embeddings, x_t: Embeddings, logsnr: Levels, known: Known, place: Turns, start: Turns, document: Turns | None = None,
    said: Known | None = None,
) -> Shown:  # fmt: skip
    """Show a clean copy and a noisy one; `place` and `start` are those of `see_copies`, what is not known is
    open; `said` is `Sight`'s.
    """
    sight = see_copies(place, start, ~known, document)._replace(said=said)
    both = torch.cat((torch.ones_like(known), known), dim=1)
    return Shown(torch.cat((x_0, x_t), dim=1), torch.cat((logsnr, logsnr), dim=1), both, sight)


def show_clean(x_0: Embeddings, logsnr: Levels, place: Turns, document: Turns | None = None) -> Shown:
    """Show clean copies alone, of an even number of rows: two side by side, as long as one row's two copies,
    neither seeing the other.
    """
    seen = _alike(place[:, None, :] <= place[:, :, None], document)
    apart = torch.zeros_like(seen[0::2])
    sight = _two_copies((seen[0::2], apart), (apart, seen[1::2]))._replace(
        said=torch.zeros_like(place[0::2], dtype=torch.bool)
    )
    pairs, length = len(apart), 2 * place.shape[1]
    given = torch.ones((pairs, length), dtype=torch.bool, device=place.device)
    return Shown(x_0.reshape(pairs, length, -1), logsnr.reshape(pairs, length), given, sight)


def see_turns(turn: Turns, document: Turns | None = None) -> Sight:
    """Return what positions of one copy see: turns up to their own, of the same document if these are told
    apart.
    """
    return Sight(_alike(turn[:, None, :] <= turn[:, :, None], document)[:, None])


def see_copies(place: Turns, start: Turns, is_open: Known, document: Turns | None = None) -> Sight:
    """Return what the positions of a clean copy and of a noisy one behind it see.

    `place` is a position's place in the order (0: given), `start` the place at which its block begins to be
    open, and `is_open` says which positions are in the making. Clean positions see clean ones whose place is
    not after their own; noisy ones see the clean ones before their block and the open ones of it."""
    clean = _alike(place[:, None, :] <= place[:, :, None], document)
    back = _alike(place[:, None, :] < start[:, :, None], document)
    noisy = _alike((start[:, None, :] == start[:, :, None]) & is_open[:, None, :], document)
    return _two_copies((clean, torch.zeros_like(clean)), (back, noisy))


def _two_copies(first: tuple[Seen, Seen], second: tuple[Seen, Seen]) -> Sight:
    """Return the sight of two copies, of what each sees of the first and of the second."""
    return Sight(torch.cat((torch.cat(first, dim=-1), torch.cat(second, dim=-1)), dim=1)[:, None], copies=2)


def _alike(seen: Seen, document: Turns | None) -> Seen:
    return seen if document is None else seen & (document[:, None, :] == document[:, :, None])


def follow_said(known: Known, sight: Sight | None) -> tuple[Known, Known]:
    """Return which open positions see a word right before them that is said, in the first copy, and which one
    in the making, in theirs.
    """
    if sight is None:
        return after(known) & ~known, after(~known) & ~known
    length = known.shape[1] // sight.copies
    words = known[:, :length] if sight.said is None else sight.said
    here, open_ = torch.arange(1, length, device=known.device), ~known.unflatten(1, (-1, length))
    each = sight.together[:, 0].unflatten(1, (-1, length))  # (batch, copies, pos, pos of all copies)
    first = F.pad(each[:, :, here, here - 1], (1, 0))
    own = torch.stack(
        [F.pad(each[:, copy, here, copy * length + here - 1], (1, 0)) for copy in range(sight.copies)], dim=1
    )
    said = open_ & first & after(words)[:, None]
    making = open_ & own & F.pad(open_[..., :-1], (1, 0))
    return said.flatten(1), (making & ~said).flatten(1)


def after(said: Known) -> Known:
    """Return which positions stand right behind one of these."""
    return F.pad(said[:, :-1], (1, 0))


def number_documents(ids: Int[Tensor, "batch pos"], end_id: int | None) -> Turns | None:
    """Return each position's document, counted from the row's start; an end token belongs to the document it
    ends. None without one.
    """
    if end_id is None:
        return None
    return ends_before(ids == end_id)


def ends_before(ends: Known) -> Turns:
    """Return how many ends stand before each position."""
    number = ends.long()
    return number.cumsum(dim=1) - number
