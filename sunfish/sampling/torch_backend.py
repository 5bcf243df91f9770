"""Walk a table with a torch denoiser; noise comes from numpy, so the same seed means the same noise
everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sunfish.model.denoiser import Denoiser
from sunfish.model.guess import Guess
from sunfish.model.picard import Picard
from sunfish.sampling.step import Moved, State, Step
from sunfish.sampling.solvers import Given, Look, Table, asks_guess, finish


class TorchNetwork:
    """A denoiser and a source of noise, as `sampler.walk` wants them.

    `temperature` sharpens (below 1) or flattens what every estimate makes of the context. A walk at once asks
    its `guess` if there is one (`sampler.asks_guess`)."""

    def __init__(
        self,
        denoiser: Denoiser,
        rng: np.random.Generator,
        temperature: float = 1.0,
        guess: Guess | None = None,
    ) -> None:
        self.denoiser, self.rng, self.temperature, self.guess = denoiser, rng, temperature, guess
        self.device = next(denoiser.parameters()).device
        self.moves: dict[Any, Any] = {"at once": Picard(denoiser)} | {
            (draws, sees_all): Step(denoiser, draws, sees_all=sees_all)
            for draws in (True, False)
            for sees_all in (True, False)
        }

    def start(self, table: Table, given: Given, place: np.ndarray) -> None:
        ids, known, self.place = (
            torch.from_numpy(values).to(self.device) for values in (given.ids, given.known, place)
        )
        self.shape, self.draws = self.denoiser.embed(ids).shape, table.draws
        self.move = self.moves[
            "at once" if table.at_once else (table.drawn, table.settles_last and not given.known.any())
        ]
        self.at_once, self.call = table.at_once, 0
        self.heat = torch.full(given.ids.shape[:1], self.temperature, device=self.device)
        x = self._noise()
        self.rows = torch.from_numpy(table.rows()).to(self.device, x.dtype)
        self.still = torch.zeros_like(x)
        self.first = self._chance()
        self.calls = torch.zeros(
            len(ids), dtype=torch.int64, device=self.device
        )  # until a text's last position settled
        self.state = State(x, self.still, ids, known, torch.zeros_like(ids))
        self.moved: Moved

    def step(self, left: int) -> None:
        noise, chance = (self._noise(), self._chance()) if self.draws else (self.still, self.first)
        going = (~self.state.known).any(dim=1)
        self.calls += going
        rests = self.at_once and self.call > 0  # a text that has settled is not computed again
        self.asked = going.nonzero().squeeze(1) if rests else torch.arange(len(going), device=self.device)
        told = self.place, torch.full_like(self.calls, left), self.heat
        guesses = self.guess is not None and self.at_once and asks_guess(self.call, left)
        move: Any = self.guess if guesses else self.move
        if rests:
            state, (place, steps, heat) = (
                tuple(part[self.asked] for part in parts) for parts in (self.state, told)
            )
            moved = move(*state, noise[self.asked], chance[self.asked], self.rows, place, steps, heat)
            self.moved = Moved(
                *(old.index_copy(0, self.asked, new) for old, new in zip(self.moved, moved, strict=True))
            )
        else:
            self.moved = move(*self.state, noise, chance, self.rows, *told)
        self.call += 1
        self.state = State(*self.moved[:5])

    def look(self) -> Look:
        moved = self.moved
        return Look(
            moved.text.cpu().numpy(), moved.probability.float().cpu().numpy(), moved.known.cpu().numpy()
        )

    def _noise(self) -> Tensor:
        return torch.from_numpy(self.rng.standard_normal(self.shape, dtype=np.float32)).to(self.device)

    def _chance(self) -> Tensor:
        return torch.from_numpy(self.rng.random(self.shape[:2], dtype=np.float32)).to(self.device)


@torch.no_grad()
def sample_ids(
    denoiser: Denoiser,
    table: Table,
    given: Given,
    rng: np.random.Generator,
    temperature: float = 1.0,
    guess: Guess | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return sampled ids, (batch, pos), and how many calls of the denoiser each text took, (batch,).

    Known positions keep their ids, the rest have those that they settled on.
    """
    network = TorchNetwork(denoiser, rng, temperature, guess)
    with denoiser.held():
        ids = finish(table, network, given, table.places(given.known, rng))
    return ids, network.calls.cpu().numpy()


def sample_free(
    denoiser: Denoiser,
    table: Table,
    num: int,
    length: int,
    rng: np.random.Generator,
    temperature: float = 1.0,
    guess: Guess | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return `num` rows sampled from pure noise, and their calls."""
    return sample_ids(denoiser, table, Given.nothing(num, length), rng, temperature, guess)
