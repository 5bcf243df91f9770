"""One call of a walk at once: every position's step from noise to a token, taken together, again and again until nothing changes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from sunfish.model.embedding import Embeddings, Ids
from sunfish.model.sight import OPEN, Known, Turns, after
from sunfish.model.step import Moved, all_before, behind_end, comes_before, draw, end_texts
from sunfish.sampler import COLUMNS

CONFIRMED = 2  # the age of a draft that was said twice, or guessed by who knows what comes next
LOGSNR, FLOOR = COLUMNS.index("logsnr"), COLUMNS.index("floor")


class Picard(nn.Module):
    """A guess of the whole text -> the text that each position's own step makes of the guess before it; inputs and answer are `Step`'s.

    What a position becomes follows from its noise, its `chance`, and the text before it in the order: x_i = F_i(x_1 .. x_{i-1}). The walk
    of one position after another solves that in as many calls as there are positions; here each call takes all of F at once, on the
    text of the call before, by a clean copy of that text and a noisy one of which each position sees what is before its own place
    (`sight.see_copies`). A position whose predecessors all said again what they had said before is settled: its step has seen
    their last word. So each call settles at least one, and the text is the one that the walk in turn writes on the same noise and chances
    (but for self-conditioning: here no step sees an estimate of its own before it).

    A denoiser that is told the word before (`told_before`) believes a wrong draft too: so it is told one only once that was said twice, or
    comes from a guess, and a word settles only in a call that tells it the word it follows.

    The first call, of age 0, has nothing to see but what is given, and guesses. At the last step whatever was said stands.

    Source: [ParaDiGMS] section 3 (Picard iteration), [Forecasting] section 2 (the same for drawn tokens).
    """

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser: Any = denoiser  # and its `embed`

    def forward(
        self, x: Embeddings, x_0_prev: Embeddings, ids: Ids, known: Known, age: Turns, noise: Embeddings,
        chance: Float[Tensor, "batch pos"], table: Float[Tensor, "row 9"], place: Turns, left: Int[Tensor, " batch"],
        temperature: Float[Tensor, " batch"],
    ) -> Moved:  # fmt: skip
        given, guesses, tells = place == 0, age == 0, known | (age >= CONFIRMED)
        start = torch.where(given, 1, torch.where(guesses, 1, place))
        level = table[-1, LOGSNR].expand(chance.shape)
        x_t = torch.where(given[..., None], self.denoiser.embed(ids), x)
        x_0_hat, logits = self.denoiser.predict_blocks(
            torch.zeros_like(x), self.denoiser.embed(ids), x_t, level, given, place, start, temperature=temperature, said=tells
        )
        probabilities = logits.softmax(dim=-1)
        said = torch.where(known, ids, draw(probabilities, chance, table[-1, FLOOR]))
        before, last = comes_before(place), (left == 1)[:, None]
        twice = (said == ids) & ~guesses
        told = after(tells) | (place <= F.pad(place[:, :-1], (1, 0), value=OPEN)) if self.denoiser.told_before else torch.ones_like(known)
        taken_back = behind_end(said, before, self.denoiser.end_id) & (said != self.denoiser.end_id)  # nothing settles on such a word
        again = known | twice & told & ~taken_back
        settled = known | last | told & ~guesses & all_before(again, before)
        said, settled = end_texts(said, known, settled, before, self.denoiser.end_id)
        return Moved(x, x_0_hat, said, settled, torch.where(twice, CONFIRMED, 1), said, probabilities.amax(dim=-1))
