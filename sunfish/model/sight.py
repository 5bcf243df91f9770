"""What a position sees: what was written before it, and what is in the making with it.

A text is written in turns. Given positions have turn 0, one that is done keeps the place at which its turn came, and all that are in
the making share a turn after those; a position sees the turns up to its own. A clean position thus never sees a noisy one, and says the
same however the rest of the text comes about.

In training a row stands there twice, so that every position can be asked about at once: a clean copy, in which each position sees those
before it, and a noisy one cut into blocks, each of which sees the clean copy of what comes before it, and itself.

Source: [BD3LM] section 3.2 (the two copies and their mask).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

OPEN = 2**20  # the turn of what is in the making; what waits comes after it (below 2^24: some programs compare integers as float32)

Turns = Int[Tensor, "batch pos"]
Known = Bool[Tensor, "batch pos"]
Levels = Float[Tensor, "batch pos"]
Embeddings = Float[Tensor, "batch pos emb"]


class Sight(NamedTuple):
    """Which positions each one sees; those of all copies, one copy after the other."""

    together: Bool[Tensor, "batch 1 pos pos"]
    copies: int = 1


class Shown(NamedTuple):
    """What a denoiser is shown of some rows: a noisy copy, or a clean one and a noisy one behind it."""

    x: Embeddings
    logsnr: Levels
    known: Known
    sight: Sight

    def told(self, x_0_prev: Embeddings) -> tuple[Embeddings, Levels, Embeddings, Known, Sight]:
        """Return it as the denoiser's arguments."""
        return self.x, self.logsnr, x_0_prev, self.known, self.sight

    def rows(self, rows: Int[Tensor, " some"]) -> Shown:
        """Return some rows of it."""
        return Shown(self.x[rows], self.logsnr[rows], self.known[rows], self.sight._replace(together=self.sight.together[rows]))


def show_noisy(x_t: Embeddings, logsnr: Levels, known: Known, document: Turns | None = None) -> Shown:
    """Show one copy, all of whose unknown positions are in the making together."""
    return Shown(x_t, logsnr, known, see_turns(torch.where(known, 0, OPEN), document))


def show_copies(
    x_0: Embeddings, x_t: Embeddings, logsnr: Levels, known: Known, place: Turns, start: Turns, document: Turns | None = None
) -> Shown:
    """Show a clean copy and a noisy one; `place` and `start` are those of `see_copies`, what is not known is open."""
    sight = see_copies(place, start, ~known, document)
    both = torch.cat((torch.ones_like(known), known), dim=1)
    return Shown(torch.cat((x_0, x_t), dim=1), torch.cat((logsnr, logsnr), dim=1), both, sight)


def see_turns(turn: Turns, document: Turns | None = None) -> Sight:
    """Return what positions of one copy see: turns up to their own, of the same document if these are told apart."""
    return Sight(_alike(turn[:, None, :] <= turn[:, :, None], document)[:, None])


def see_copies(place: Turns, start: Turns, is_open: Known, document: Turns | None = None) -> Sight:
    """Return what the positions of a clean copy and of a noisy one behind it see.

    `place` is a position's place in the order (0: given), `start` the place at which its block begins to be open, and `is_open` says
    which positions are in the making. Clean positions see clean ones whose place is not after their own; noisy ones see the clean
    ones before their block and the open ones of it.
    """
    clean = _alike(place[:, None, :] <= place[:, :, None], document)
    back = _alike(place[:, None, :] < start[:, :, None], document)
    noisy = _alike((start[:, None, :] == start[:, :, None]) & is_open[:, None, :], document)
    halves = torch.cat((clean, torch.zeros_like(clean)), dim=-1), torch.cat((back, noisy), dim=-1)
    return Sight(torch.cat(halves, dim=1)[:, None], copies=2)


def _alike(seen: Bool[Tensor, "batch pos pos"], document: Turns | None) -> Bool[Tensor, "batch pos pos"]:
    return seen if document is None else seen & (document[:, None, :] == document[:, :, None])


def number_documents(ids: Int[Tensor, "batch pos"], end_id: int | None) -> Turns | None:
    """Return each position's document, counted from the row's start; an end token belongs to the document it ends. None without one."""
    if end_id is None:
        return None
    ended = (ids == end_id).long()
    return ended.cumsum(dim=1) - ended
