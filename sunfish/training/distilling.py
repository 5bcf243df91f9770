"""Distil a walk at once into its guess: real texts, the chances that would have led to them, and a network that learns the map.

No walk is taken to its end to make an example. In a walk position i draws its token from p(token | text before it) by its chance; so for
a text that is there, every chance in its token's share of [0, 1) would have led to it, and one call of the teacher says all shares at
once. What the guess is shown is what it will meet: a beginning that has settled, or none, then its own guess and a call, turn after turn.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sunfish.model.embedding import Ids
from sunfish.model.guess import Guess, start_guess
from sunfish.model.picard import CONFIRMED, Picard
from sunfish.model.sight import Known, Turns, ends_before
from sunfish.model.step import State, all_before, comes_before
from sunfish.model.store import StoredDenoiser
from sunfish.progress import Progress
from sunfish.sampler import Table
from sunfish.sections.diffusion import Known as KnownSection
from sunfish.sections.distill import Section
from sunfish.sections.launch import Section as Launch
from sunfish.sections.pretrain import Optim
from sunfish.text.batches import Feed, Rows
from sunfish.training.draws import draw_known
from sunfish.training.ema import Ema
from sunfish.training.optim import clip_gradients, lr_share, make_optimizers
from sunfish.training.parallel import flushing_denormals, make_fabric, multiplies_in_bf16, part_of

FAR = 0.05  # of a token's weight in the loss: what it has however unlikely a call comes so far


class Examples(NamedTuple):
    """Texts, the chances by which a walk writes them, and where it begins."""

    ids: Ids
    place: Turns
    known: Known  # given, or settled
    noise: Float[Tensor, "batch pos emb"]
    chance: Float[Tensor, "batch pos"]
    counts: Known  # can be written, as all that comes before it can: neither given, nor below the floor, nor behind the text's end


class GuessLoss(nn.Module):
    """Where a walk to some texts stands -> the loss of one guess, in nats, and where the walk stands after it.

    It is the cross-entropy of the tokens that are to be written, each weighted by how likely the guess has all right that comes before
    it: only so far does a call settle what was guessed. A share `FAR` is of all alike.
    """

    def __init__(self, guess: Guess) -> None:
        super().__init__()
        self.guess = guess

    def forward(self, state: State, examples: Examples, logsnr: Float[Tensor, ""]) -> tuple[Tensor, State]:
        ids, place, chance = examples.ids, examples.place, examples.chance
        logits = self.guess.predict(state.x, state.ids, state.known, state.age > 0, chance, place, logsnr).logits
        nats = F.cross_entropy(logits.flatten(0, 1).float(), ids.flatten(), reduction="none").view(ids.shape)
        on_the_way = (~state.known | (state.ids == ids)).all(dim=1, keepdim=True)
        counts = examples.counts & ~state.known & on_the_way
        weight = counts * (FAR + all_right(nats.detach() * counts, place))
        said = torch.where(state.known, state.ids, logits.argmax(dim=-1))
        return (nats * weight).sum() / weight.sum().clamp(min=FAR), state._replace(ids=said, age=torch.full_like(state.age, CONFIRMED))


def all_right(nats: Float[Tensor, "batch pos"], place: Turns) -> Float[Tensor, "batch pos"]:
    """Return how likely all that comes before each position is right, of each token's -log p(it is right)."""
    return (-comes_before(place).to(nats) @ nats[..., None]).squeeze(-1).exp()


@torch.no_grad()
def make_examples(
    teacher: StoredDenoiser, ids: Ids, given: Known, place: Turns, table: Table, temperature: float, generator: torch.Generator
) -> Examples:
    """Return `ids` with noise and, for each token that is not given, a chance out of the share that the teacher's walk gives it.

    In half of the rows some of a text has settled, a beginning of any length.
    """
    denoiser, device = teacher.denoiser, ids.device
    x_0 = denoiser.embed(ids)
    noise, even = torch.randn(x_0.shape, generator=generator, device=device), torch.rand(ids.shape, generator=generator, device=device)
    level, heat = torch.full(ids.shape, float(table.logsnr[0]), device=device), torch.full((len(ids),), temperature, device=device)
    x_t = torch.where(given[..., None], x_0, noise)
    start = torch.where(given, 1, place)
    logits = denoiser.predict_blocks(torch.zeros_like(x_0), x_0, x_t, level, given, place, start, temperature=heat).logits
    chance, possible = chance_of(logits.float().softmax(dim=-1), ids, even, table.floor)
    behind = ends_before(ids == teacher.end_id) > 0
    counts = ~given & ~behind & all_before(possible | given, comes_before(place)) & possible
    share = 2.0 * torch.rand((len(ids), 1), generator=generator, device=device) - 1.0
    return Examples(ids, place, given | (place <= share * place.amax(dim=1, keepdim=True)), noise, chance, counts)


def begin(examples: Examples) -> State:
    """Return where a walk to the examples' texts begins."""
    ids, place, known, noise, *_ = examples
    return State(noise, torch.zeros_like(noise), torch.where(known, ids, 0), known, torch.zeros_like(place))


@torch.no_grad()
def take_call(walk: Picard, state: State, examples: Examples, table: Table, temperature: float) -> State:
    """Return where a walk stands after a call of its own."""
    chance, place = examples.chance, examples.place
    rows = torch.from_numpy(table.rows()).to(chance)
    left, heat = torch.full_like(place[:, 0], len(table)), torch.full_like(chance[:, 0], temperature)
    return State(*walk(*state, torch.zeros_like(examples.noise), chance, rows, place, left, heat)[:5])


def chance_of(
    probabilities: Float[Tensor, "batch pos vocab"], ids: Ids, even: Float[Tensor, "batch pos"], floor: float
) -> tuple[Float[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """Return a chance by which `step.draw` draws `ids`, the share of `even` of the way through the token's share, and whether any does."""
    likeliest = probabilities.amax(dim=-1, keepdim=True)
    shares = torch.where((probabilities >= floor) | (probabilities == likeliest), probabilities, 0.0)
    reached, index = shares.cumsum(dim=-1), ids[..., None]
    share = shares.gather(-1, index)
    chance = (reached.gather(-1, index) - share * (1.0 - even[..., None])) / reached[..., -1:]
    return chance.squeeze(-1).clamp(0.0, 1.0 - 2**-24), share.squeeze(-1) > 0


@flushing_denormals()
def distil(
    teacher: StoredDenoiser, rows: Rows, section: Section, optim: Optim, known: KnownSection, launch: Launch, table: Table, heat: float
) -> tuple[Guess, dict[str, Tensor], float]:
    """Learn a guess for the walks of `table` at temperature `heat`; returns it, its averaged weights, and the last hundred losses' mean."""
    fabric = make_fabric(launch)
    teacher.denoiser.to(fabric.device)
    model, walk = fabric.setup(GuessLoss(start_guess(teacher, section.seed))), Picard(teacher.denoiser)
    guess: Guess = model.module.guess
    optimizers, ema = make_optimizers(guess, optim, multiplies_in_bf16(fabric)), Ema(guess, section.ema_decay)
    feed = Feed(rows, rows.order(section.batch_rows, section.seed), part_of(fabric, section.batch_rows))
    losses, logsnr = [], torch.tensor(table.logsnr[0], dtype=torch.float32, device=fabric.device)
    with Progress("distil", section.steps, "steps", shown=fabric.is_global_zero) as progress:
        for step in range(section.steps):
            rng = np.random.default_rng((section.seed, step, fabric.global_rank))
            generator = torch.Generator(fabric.device).manual_seed(int(rng.integers(2**62)))
            ids = feed(step)
            given = draw_known(known, len(ids), ids.shape[1], rng)
            texts, there, place = (torch.from_numpy(values).to(fabric.device) for values in (ids, given, table.places(given, rng)))
            with fabric.autocast():
                examples = make_examples(teacher, texts, there, place, table, heat, generator)
            state, nats = begin(examples), 0.0
            for _ in range(section.turns):
                with fabric.autocast():
                    loss, state = model(state, examples, logsnr)
                fabric.backward(loss / section.turns)
                nats += float(loss.detach()) / section.turns
                with fabric.autocast():
                    state = take_call(walk, state, examples, table, heat)
            clip_gradients(guess, optim.clip_norm)
            optimizers.step(section.rate * lr_share(step, section.steps, optim))
            optimizers.zero_grad()
            ema.update(step)
            losses.append(nats)
            progress.add(1, f"loss {nats:.3f}")
    return guess, ema.average, float(np.mean(losses[-100:]))
