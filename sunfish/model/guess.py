"""A guess of a whole text, of the chances that will decide it: what a walk at once asks between its calls, learned from the walk itself."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sunfish.files import read_json, replacing, write_json
from sunfish.model.denoiser import Denoiser, Prediction, Told
from sunfish.model.embedding import Embeddings, Ids
from sunfish.model.picard import CONFIRMED, LOGSNR
from sunfish.model.sight import Known, Turns, see_turns
from sunfish.model.step import Moved, comes_before, end_texts
from sunfish.model.store import StoredDenoiser
from sunfish.problems import Problem

DRAFT_LOGSNR = -2.0  # the noise level at which a draft's words are shown: they say much, and may be wrong
CHANCE_PERIODS = (0.02, 2.0)  # a chance lies in [0, 1), and which of some fifty tokens it means hangs on a fiftieth


class Guess(nn.Module):
    """Chances, what is settled and a draft of the rest -> the text that the walk comes to; inputs and answer are `Step`'s.

    A walk at once is a map from chances to a text (`model.picard`), and this is that map in a single call, as well as a denoiser of
    the same size can learn it: each position is told its own chance in the place of the estimate before, and sees what comes before it in
    the order. At a walk's first call (age 0) there is noise for a draft; later it is what the walk's own call made of the guess before.
    It need not be right: what it guesses wrong the walk corrects, so the texts stay the walk's and only the calls get fewer.

    Source: [CM] section 3 (from anywhere on the path to its end in one call), here for a path that drawn tokens make.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.chance = Told(CHANCE_PERIODS, denoiser.section.cond_dim, denoiser.section.emb_dim)

    def forward(
        self, x: Embeddings, x_0_prev: Embeddings, ids: Ids, known: Known, age: Turns, noise: Embeddings,
        chance: Float[Tensor, "batch pos"], table: Float[Tensor, "row 9"], place: Turns, left: Int[Tensor, " batch"],
        temperature: Float[Tensor, " batch"],
    ) -> Moved:  # fmt: skip
        x_0_hat, logits = self.predict(x, ids, known, age > 0, chance, place, table[-1, LOGSNR])
        probability, likeliest = logits.softmax(dim=-1).max(dim=-1)
        said = torch.where(known, ids, likeliest)
        before = comes_before(place)
        said, settled = end_texts(said, known, known | (left == 1)[:, None], before, self.denoiser.end_id)
        return Moved(x, x_0_hat, said, settled, torch.full_like(age, CONFIRMED), said, probability)

    def predict(
        self, x: Embeddings, ids: Ids, known: Known, drafted: Known, chance: Float[Tensor, "batch pos"], place: Turns,
        logsnr: Float[Tensor, ""],
    ) -> Prediction:  # fmt: skip
        """Return what stands for each position's token; of `ids` those count that are `known` or `drafted`, `logsnr` is pure noise's."""
        x_t = torch.where((known | drafted)[..., None], self.denoiser.embed(ids), x)
        level = torch.where(drafted, DRAFT_LOGSNR, logsnr)
        return self.denoiser.predict(x_t, level, self.chance(chance), known, see_turns(place)._replace(said=known | drafted))


def start_guess(stored: StoredDenoiser, seed: int) -> Guess:
    """Return an untrained guess: the denoiser's own weights, and a chance that says nothing yet."""
    section = stored.denoiser.section
    guess = Guess(Denoiser(section, stored.denoiser.vocab_size, stored.end_id))
    guess.denoiser.load_state_dict(stored.denoiser.state_dict())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for linear in (guess.chance.hidden, guess.chance.out):
            linear.weight.copy_(torch.randn(linear.weight.shape, generator=generator) * linear.in_features**-0.5)
            linear.bias.zero_()
    return guess


def write_guess(out_dir: Path, guess: Guess, weights: dict[str, Tensor], teacher_digest: str) -> None:
    """Write the folder whole or not at all; the guess belongs to the denoiser whose digest it names."""
    with replacing(out_dir) as folder:
        folder.mkdir()
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, folder / "guess.safetensors")
        write_json(folder / "config.json", {"model_sha256": teacher_digest, "parameters": sum(p.numel() for p in guess.parameters())})


def read_guess(folder: Path, stored: StoredDenoiser) -> Guess:
    """Read what `write_guess` wrote.

    Raises:
        Problem: a missing or unreadable file, or the guess of another denoiser.
    """
    if read_json(folder / "config.json").get("model_sha256") != stored.digest():
        raise Problem(f"{folder}: was distilled from another denoiser than {stored.folder}; run `dvc repro distill/dvc.yaml`")
    guess = Guess(Denoiser(stored.denoiser.section, stored.denoiser.vocab_size, stored.end_id))
    try:
        guess.load_state_dict(load_file(folder / "guess.safetensors"))
    except (SafetensorError, FileNotFoundError, RuntimeError) as error:
        raise Problem(f"{folder / 'guess.safetensors'}: cannot be loaded ({error}); run `dvc repro distill/dvc.yaml`") from error
    return guess.eval()
