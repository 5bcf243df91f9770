"""Distil a walk at once into its guess: real texts, the chances that would have led to them, and a network that learns the map.

No walk is taken to its end to make an example. In a walk position i draws its token from p(token | text before it) by its chance; so for
a text that is there, every chance in its token's share of [0, 1) would have led to it, and one call of the teacher says all shares at
once. What the guess is shown is what it will meet: nothing but chances, or a walk's first few turns of its own guess and a call.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sunfish.lengths import RowLengths
from sunfish.model.embedding import Ids
from sunfish.model.guess import Guess, start_guess
from sunfish.model.picard import Picard
from sunfish.model.sight import Known, Turns, ends_before
from sunfish.model.step import State
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
from sunfish.training.optim import clip_gradients, lr_share, make_optimizers, set_lr
from sunfish.training.parallel import make_fabric, multiplies_in_bf16, part_of


class Examples(NamedTuple):
    """Texts, where a walk to them stands, and the chances by which it writes them; not all texts can be written."""

    ids: Ids
    said: Ids  # what stands there already, if it is known or drafted
    known: Known  # given or settled
    drafted: Known
    noise: Float[Tensor, "batch pos emb"]
    chance: Float[Tensor, "batch pos"]
    counts: Bool[Tensor, "batch pos"]  # neither known, nor below the floor, nor behind the text's end


class GuessLoss(nn.Module):
    """Examples -> the mean cross-entropy of the tokens that count, in nats: all of a step that is differentiated."""

    def __init__(self, guess: Guess) -> None:
        super().__init__()
        self.guess = guess

    def forward(self, examples: Examples, logsnr: Float[Tensor, ""]) -> Tensor:
        ids, said, known, drafted, noise, chance, counts = examples
        logits = self.guess.predict(noise, said, known, drafted, chance, logsnr).logits
        nats = F.cross_entropy(logits.flatten(0, 1).float(), ids.flatten(), reduction="none").view(ids.shape)
        return (nats * counts).sum() / counts.sum().clamp(min=1)


@torch.no_grad()
def make_examples(
    teacher: StoredDenoiser, ids: Ids, known: Known, place: Turns, table: Table, temperature: float, generator: torch.Generator
) -> Examples:
    """Return `ids` with noise and, for each token that is not given, a chance out of the share that the teacher's walk gives it."""
    denoiser, device = teacher.denoiser, ids.device
    x_0 = denoiser.embed(ids)
    noise = torch.randn(x_0.shape, generator=generator, device=device)
    level, heat = torch.full(ids.shape, float(table.logsnr[0]), device=device), torch.full((len(ids),), temperature, device=device)
    start = torch.where(known, 1, place)
    x_t = torch.where(known[..., None], x_0, noise)
    logits = denoiser.predict_blocks(torch.zeros_like(x_0), x_0, x_t, level, known, place, start, temperature=heat).logits
    even = torch.rand(ids.shape, generator=generator, device=device)
    chance, possible = chance_of(logits.float().softmax(dim=-1), ids, even, table.floor)
    said, nothing = torch.where(known, ids, 0), torch.zeros_like(known)
    return Examples(ids, said, known, nothing, noise, chance, possible & ~known & (ends_before(ids == teacher.end_id) == 0))


@torch.no_grad()
def walk_on(guess: Guess, teacher: StoredDenoiser, examples: Examples, place: Turns, table: Table, heat: float, turns: int) -> Examples:
    """Return examples as a walk leaves them after so many turns, a guess and a call each.

    A text counts no more once a word has settled that is not its own: some cannot be written.
    """
    chance = examples.chance
    rows = torch.from_numpy(table.rows()).to(chance)
    left, temperature = torch.full_like(place[:, 0], len(table)), torch.full_like(chance[:, 0], heat)
    told = torch.zeros_like(examples.noise), chance, rows, place, left, temperature
    state = State(examples.noise, told[0], examples.said, examples.known, torch.zeros_like(place))
    for move in (guess, Picard(teacher.denoiser)) * turns:
        state = State(*move(*state, *told)[:5])
    on_the_way = (~state.known | (state.ids == examples.ids)).all(dim=1, keepdim=True)
    counts = examples.counts & ~state.known & on_the_way
    return examples._replace(said=state.ids, known=state.known, drafted=~state.known & (state.age > 0), counts=counts)


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


def with_room(ids: np.ndarray, given: np.ndarray, lengths: RowLengths, end_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows in which a walk would write: where no length is told as long as a text may become, with end tokens behind it.

    They are given where a row's last token is, as they are around a gap.
    """
    more = 0 if lengths.told else max(0, lengths.longest - ids.shape[1])
    wider = np.pad(ids, ((0, 0), (0, more)), constant_values=end_id)
    return wider, np.concatenate((given, np.repeat(given[:, -1:], more, axis=1)), axis=1)


def distil(
    teacher: StoredDenoiser, rows: Rows, section: Section, optim: Optim, known: KnownSection, launch: Launch, table: Table, heat: float
) -> tuple[Guess, dict[str, Tensor], float]:
    """Learn a guess for the walks of `table` at temperature `heat`; returns it, its averaged weights, and the last hundred losses' mean."""
    fabric = make_fabric(launch)
    teacher.denoiser.to(fabric.device)
    model = fabric.setup(GuessLoss(start_guess(teacher, section.seed)))
    guess: Guess = model.module.guess
    optimizers, ema = make_optimizers(guess, optim, multiplies_in_bf16(fabric)), Ema(guess, section.ema_decay)
    feed = Feed(rows, rows.order(section.batch_rows, section.seed), part_of(fabric, section.batch_rows))
    losses, logsnr = [], torch.tensor(table.logsnr[0], dtype=torch.float32, device=fabric.device)
    with Progress("distil", section.steps, "steps", shown=fabric.is_global_zero) as progress:
        for step in range(section.steps):
            rng = np.random.default_rng((section.seed, step, fabric.global_rank))
            generator = torch.Generator(fabric.device).manual_seed(int(rng.integers(2**62)))
            ids = feed(step)
            ids, given = with_room(ids, draw_known(known, len(ids), ids.shape[1], rng), teacher.lengths, teacher.end_id)
            texts, there, place = (torch.from_numpy(values).to(fabric.device) for values in (ids, given, table.places(given, rng)))
            turns = max(0, int(rng.integers(2 * section.turns_max + 1)) - section.turns_max)
            with fabric.autocast():
                examples = make_examples(teacher, texts, there, place, table, heat, generator)
                loss = model(walk_on(guess, teacher, examples, place, table, heat, turns), logsnr)
            fabric.backward(loss)
            clip_gradients(guess, optim.clip_norm)
            set_lr(optimizers, optim, section.rate * lr_share(step, section.steps, optim))
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            ema.update(step)
            losses.append(float(loss.detach()))
            progress.add(1, f"loss {losses[-1]:.3f}")
    return guess, ema.average, float(np.mean(losses[-100:]))
