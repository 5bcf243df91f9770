"""One row of a sampler's table as one call: denoise, settle what is sure, move on. Torch runs it, and the
exported graph is it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sunfish.model.embedding import Embeddings, Ids
from sunfish.model.attention_mask import OPEN, Known, Turns
from sunfish.sampling.solvers import COLUMNS, NEVER

SETTLE, DRAWN, FLOOR = (COLUMNS.index(name) for name in ("settle_above", "drawn", "floor"))
# of the words of a text as many as one in two are sure before their turn comes, once those before them stand
AHEAD = 2


class State(NamedTuple):
    """Texts in the making: noisy embeddings, the estimate before, the ids of what is known, which positions
    are, and each one's next row.

    `age` is 0 for a position that waits, then the row of the table that its next step takes.
    """

    x: Embeddings
    x_0_prev: Embeddings
    ids: Ids
    known: Known
    age: Turns


class Moved(NamedTuple):
    """A step's answer: the next state, flat, the text as it would be now, and how probable its likeliest
    tokens are.
    """

    x: Embeddings
    x_0_hat: Embeddings
    ids: Ids
    known: Known
    age: Turns
    text: Ids
    probability: Float[Tensor, "batch pos"]


class Step(nn.Module):
    """x_next = c_x * x + c_0 * x_0 + c_p * x_0_prev + c_n * noise, after what is known was set back to its
    clean embedding.

    `table` holds `sampler.Table.rows`, of which each position takes the one of its age; `place` is its place
    in the order (0: given);
    `left`, (batch,), how many steps are left, this one included; `temperature`, (batch,), the denoiser's. x_0
    is the denoiser's estimate, the mean of all tokens; where a row is `drawn`, it is one token's embedding,
    drawn from the same probabilities by `chance`, which is even in [0, 1), none that is less probable than
    the row's `floor`. A position whose likeliest token is more probable than its row's
    `settle_above` becomes known, by the token drawn or else by that one, if all that comes before it in the
    order is known or becomes so now: what is known is always a beginning, in the order, as it was in
    training. Behind an end all is end (`end_texts`).

    With `draws` False it is for tables without a drawn row, and looks for no token by chance; with `sees_all`
    for rows of which nothing is given, where nothing settles before the end (`sampler.Table.settles_last`).
    With `branches` an exported graph says who begins, and looks for tokens by chance, only where there is
    something to say or to look for.

    Source: [DDIM] eq. 12 for the row; [D3PM] section 3 for drawn tokens; [MaskGIT] section 3.2 for settling.
    """

    def __init__(
        self, denoiser: nn.Module, draws: bool = True, branches: bool = False, sees_all: bool = False
    ) -> None:
        super().__init__()
        self.denoiser: Any = denoiser  # and its `embed`
        self.draws, self.branches, self.sees_all = draws, branches, sees_all

    def forward(
        self, x: Embeddings, x_0_prev: Embeddings, ids: Ids, known: Known, age: Turns, noise: Embeddings,
        chance: Float[Tensor, "batch pos"], table: Float[Tensor, "row 9"], place: Turns, left: Int[Tensor, " batch"],
        temperature: Float[Tensor, " batch"],
    ) -> Moved:  # fmt: skip
        before = comes_before(place)
        age = self._either(
            left.max() > table.shape[0] - 1, _begin_some, _begin_all, (age, known, before, left, table)
        )
        row = table[age]
        logsnr, c_x, c_0, c_p, c_n, settle_above, drawn, waits, _ = row.split(1, dim=-1)
        x = torch.where(known[..., None], self.denoiser.embed(ids), x)
        turn = None if self.sees_all else torch.where(known, place, OPEN + waits.squeeze(-1).long())
        x_0_hat, logits = self.denoiser(x, logsnr.squeeze(-1), x_0_prev, known, turn, temperature)
        probabilities = logits.softmax(dim=-1)
        probability, likeliest = probabilities.max(dim=-1)
        token = likeliest
        if self.draws:
            by_chance = self._either(
                table[-1, DRAWN] > 0, _draw_some, _draw_none, (probabilities, chance, row, ids)
            )
            token = torch.where(drawn.squeeze(-1) > 0, by_chance, likeliest)
        sure = known | (probability > settle_above.squeeze(-1))
        sure = sure & ~known & all_before(sure, before)
        ids, known = torch.where(sure, token, ids), known | sure
        ids, known = end_texts(
            ids, known & ~sure, known, before, None if self.sees_all else self.denoiser.end_id
        )
        x_0 = torch.where(
            known[..., None] | (drawn > 0), self.denoiser.embed(torch.where(known, ids, token)), x_0_hat
        )
        x = c_x * x + c_0 * x_0 + c_p * x_0_prev + c_n * noise
        age = torch.where(age > 0, (age + 1).clamp(max=table.shape[0] - 1), age)
        return Moved(x, x_0_hat, ids, known, age, torch.where(known, ids, likeliest), probability)

    def _either(
        self,
        asked: Tensor,
        some: Callable[..., Tensor],
        none: Callable[..., Tensor],
        told: tuple[Tensor, ...],
    ) -> Tensor:
        """Return `some(*told)`, which is right always; a graph with branches takes `none`, the same for less,
        where it is not asked for.

        Torch asks nothing: a GPU that waits for an answer takes longer.
        """
        answer: Tensor = (
            torch.cond(asked, some, none, told)
            if self.branches and torch.compiler.is_exporting()
            else some(*told)
        )
        return answer


def end_texts(
    ids: Ids, known: Known, settled: Known, before: Bool[Tensor, "batch pos pos"], end_id: int | None
) -> tuple[Ids, Known]:
    """Return the ids and what has settled once all is end that stands behind a settled end and comes after it
    in the order.

    Of what has `settled` only what was not `known` before is new; `before` says of each position which others
    come before it in the order. What has settled is a beginning, in the order, still."""
    if end_id is None:
        return ids, settled
    behind = behind_end(ids, before, end_id) & ~known
    done = settled | behind & all_before(settled | behind, before)
    return torch.where(behind & done, end_id, ids), done


def behind_end(ids: Ids, before: Bool[Tensor, "batch pos pos"], end_id: int | None) -> Known:
    """Say of each position whether an end stands before it and comes before it in the order, settled or not.

    If all that comes before a position has settled or is behind an end, the first of these ends has settled.
    """
    if end_id is None:
        return torch.zeros_like(ids, dtype=torch.bool)
    position = torch.arange(ids.shape[1], device=ids.device)
    return (before & (ids == end_id)[:, None, :] & (position < position[:, None])).any(dim=-1)


def comes_before(place: Turns) -> Bool[Tensor, "batch pos pos"]:
    """Say of each position which others come before it in the order."""
    return place[:, None, :] < place[:, :, None]


def all_before(done: Known, before: Bool[Tensor, "batch pos pos"]) -> Known:
    """Say of each position whether all that come before it are done."""
    return ~(before & ~done[:, None, :]).any(dim=-1)


def _draw_some(probabilities: Tensor, chance: Tensor, row: Tensor, ids: Ids) -> Ids:
    return draw(probabilities, chance, row[..., FLOOR:])


def _draw_none(probabilities: Tensor, chance: Tensor, row: Tensor, ids: Ids) -> Ids:
    return ids.clone()


def _begin_some(
    age: Turns,
    known: Known,
    before: Bool[Tensor, "batch pos pos"],
    left: Int[Tensor, " batch"],
    table: Tensor,
) -> Turns:
    return begin(
        age, known, before, left, table.shape[0] - 1, torch.where(table[0, SETTLE] < NEVER, AHEAD, 1)
    )


def _begin_all(
    age: Turns,
    known: Known,
    before: Bool[Tensor, "batch pos pos"],
    left: Int[Tensor, " batch"],
    table: Tensor,
) -> Turns:
    """What waits begins: no more steps are left than a position takes."""
    return torch.where(~known & (age == 0), 1, age)


def begin(
    age: Turns,
    known: Known,
    before: Bool[Tensor, "batch pos pos"],
    left: Int[Tensor, " batch"],
    rows: int,
    ahead: Int[Tensor, ""],
) -> Turns:
    """Return the ages with those positions begun, at their first row, that must begin now, the first in the
    order first.

    As few are in the making together as the steps that are left allow, and as few begin at once, if of those
    that wait one in `ahead` has to begin and the others settle before; when that turns out wrong, all that is
    left begins together at the end. So words that settle early leave more steps to those that come after.
    `before` says of each position which others come before it."""
    waits, flies = ~known & (age == 0), ~known & (age > 0)
    waiting, flying = waits.sum(dim=1), flies.sum(dim=1)
    to_begin = (waiting + ahead - 1) // ahead
    still_to_take = to_begin * rows + (flies * (rows + 1 - age)).sum(dim=1)
    room = (still_to_take + left - 1) // left - flying
    in_time = (left - rows + 1).clamp(min=1)
    pace = (to_begin + in_time - 1) // in_time
    number = torch.where(left > rows, torch.minimum(room.clamp(min=0), pace), waiting)
    number = torch.where(flying > 0, number, number.clamp(min=1))
    rank = (before & waits[:, None, :]).sum(dim=-1)
    return torch.where(waits & (rank < number[:, None]), 1, age)


def draw(
    probabilities: Float[Tensor, "batch pos vocab"],
    chance: Float[Tensor, "batch pos"],
    floor: Float[Tensor, "*batch pos 1"] | float = 0.0,
) -> Ids:
    """Return the token in whose share of [0, 1) `chance` falls, the shares lying one after another.

    Tokens less probable than `floor` have no share, unless none is more probable. Shares are summed in pieces
    of about the square root of the vocabulary, first to find the piece and then inside it: one long running
    sum would take longer than the readout.

    Source: [Truncation] section 4.1 (epsilon sampling).
    """
    size = piece_size(probabilities.shape[-1])
    least = probabilities.amax(dim=-1, keepdim=True).clamp(max=floor)
    kept = torch.where(probabilities >= least, probabilities, 0.0)
    pieces = F.pad(kept, (0, -kept.shape[-1] % size)).unflatten(-1, (-1, size))
    reached = pieces.sum(dim=-1).cumsum(dim=-1)
    goal = chance[..., None] * reached[..., -1:]
    piece = (reached < goal).sum(dim=-1, keepdim=True)
    inside = pieces.gather(2, piece[..., None].expand(*piece.shape, size)).squeeze(2).cumsum(dim=-1)
    before = F.pad(reached, (1, 0)).gather(
        2, piece
    )  # by number: onnx's reference evaluator takes no negative axis there
    rest = torch.minimum(
        goal - before, inside[..., -1:]
    )  # the piece's sum in another order may fall short of it
    return piece.squeeze(-1) * size + (inside < rest).sum(dim=-1)


def piece_size(vocab_size: int) -> int:
    """Return how many tokens `draw` sums at once: the power of two nearest to the square root of them all."""
    return 2 ** round(math.log2(vocab_size) / 2)
