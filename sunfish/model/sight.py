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
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

OPEN = 2**20  # the turn of what is in the making; what waits comes after it (below 2^24: some programs compare integers as float32)

Turns = Int[Tensor, "batch pos"]
Known = Bool[Tensor, "batch pos"]
Levels = Float[Tensor, "batch pos"]
Embeddings = Float[Tensor, "batch pos emb"]


class Sight(NamedTuple):
    """Which positions each one sees: anywhere, and at each offset beside it, by the copy that looks and the copy that is seen.

    The positions of `together` are those of all copies, one copy after the other.
    """

    together: Bool[Tensor, "batch 1 pos pos"]
    beside: Bool[Tensor, "offset copy copy batch pos_of_one 1"]


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
        return Shown(self.x[rows], self.logsnr[rows], self.known[rows], Sight(self.sight.together[rows], self.sight.beside[:, :, :, rows]))


def show_noisy(x_t: Embeddings, logsnr: Levels, known: Known, reach: int, document: Turns | None = None) -> Shown:
    """Show one copy, all of whose unknown positions are in the making together."""
    return Shown(x_t, logsnr, known, see_turns(torch.where(known, 0, OPEN), reach, document))


def show_copies(
    x_0: Embeddings, x_t: Embeddings, logsnr: Levels, known: Known, place: Turns, start: Turns, reach: int, document: Turns | None = None
) -> Shown:
    """Show a clean copy and a noisy one; `place` and `start` are those of `see_copies`, what is not known is open."""
    sight = see_copies(place, start, ~known, reach, document)
    both = torch.cat((torch.ones_like(known), known), dim=1)
    return Shown(torch.cat((x_0, x_t), dim=1), torch.cat((logsnr, logsnr), dim=1), both, sight)


def offsets(reach: int) -> list[int]:
    """Return where neighbours stand, from the furthest before to the furthest behind."""
    return [offset for offset in range(-reach, reach + 1) if offset]


def see_turns(turn: Turns, reach: int, document: Turns | None = None) -> Sight:
    """Return what positions of one copy see: turns up to their own, of the same document if these are told apart."""

    def seen(ours: Tensor, theirs: Tensor, our_document: Tensor | None, their_document: Tensor | None) -> Tensor:
        earlier = theirs <= ours
        return earlier if our_document is None or their_document is None else earlier & (our_document == their_document)

    across = None if document is None else (document[:, :, None], document[:, None, :])
    together = seen(turn[:, :, None], turn[:, None, :], *(across or (None, None)))
    beside = [
        seen(turn, _shift(turn, offset, 2 * OPEN), document, None if document is None else _shift(document, offset, -1))
        for offset in offsets(reach)
    ]
    return Sight(together[:, None], _stack(beside, turn)[:, None, None])


def see_copies(place: Turns, start: Turns, is_open: Bool[Tensor, "batch pos"], reach: int, document: Turns | None = None) -> Sight:
    """Return what the positions of a clean copy and of a noisy one behind it see.

    `place` is a position's place in the order (0: given), `start` the place at which its block begins to be open, and `is_open` says
    which positions are in the making. Clean positions see clean ones whose place is not after their own; noisy ones see the clean
    ones before their block and the open ones of it.
    """

    def quarters(i: tuple[Tensor, ...], j: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (place_i, start_i, _, document_i), (place_j, start_j, open_j, document_j) = i, j
        same = document_i == document_j
        return (place_j <= place_i) & same, (place_j < start_i) & same, (start_j == start_i) & open_j & same

    one = (place, start, is_open, torch.zeros_like(place) if document is None else document)
    clean, back, noisy = quarters(tuple(values[:, :, None] for values in one), tuple(values[:, None, :] for values in one))
    never = torch.zeros_like(clean)
    together = torch.cat((torch.cat((clean, never), dim=-1), torch.cat((back, noisy), dim=-1)), dim=1)
    beside = []
    for offset in offsets(reach):
        fills = (2 * OPEN, -1, False, -1)
        clean, back, noisy = quarters(one, tuple(_shift(values, offset, fill) for values, fill in zip(one, fills, strict=True)))
        beside.append(torch.stack((clean, torch.zeros_like(clean), back, noisy)).unflatten(0, (2, 2)))
    masks = torch.stack(beside) if beside else torch.zeros(0, 2, 2, *place.shape, dtype=torch.bool, device=place.device)
    return Sight(together[:, None], masks[..., None])


def _stack(masks: list[Tensor], like: Tensor) -> Tensor:
    stacked = torch.stack(masks) if masks else torch.zeros(0, *like.shape, dtype=torch.bool, device=like.device)
    return stacked[..., None]


def _shift(values: Tensor, offset: int, fill: int | bool) -> Tensor:
    """Return what stands at each position plus `offset`, (batch, pos), and `fill` beyond the ends."""
    length, reach = values.shape[1], abs(offset)
    return F.pad(values, (reach, reach), value=fill)[:, reach + offset : reach + offset + length]


def number_documents(ids: Int[Tensor, "batch pos"], end_id: int | None) -> Turns | None:
    """Return each position's document, counted from the row's start; an end token belongs to the document it ends. None without one."""
    if end_id is None:
        return None
    ended = (ids == end_id).long()
    return ended.cumsum(dim=1) - ended
