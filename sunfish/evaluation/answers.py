"""Answer instructions with a torch denoiser: each is given, and its answer is sampled behind it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sunfish.errors import UserError
from sunfish.evaluation.context import Texts, batches_of
from sunfish.model.pretrained import StoredDenoiser
from sunfish.progress import Progress
from sunfish.sampling.loop import Conditioning, SamplerPlan
from sunfish.sampling.torch_backend import sample_texts
from sunfish.text.tokenizer import Tokenizer, instruction_ids


def write_answers(
    stored: StoredDenoiser,
    tokenizer: Tokenizer,
    plan: SamplerPlan,
    instructions: Sequence[str],
    rng: np.random.Generator,
    batch_rows: int = 50,
    num_positions: int | None = None,
) -> Texts:
    """Return one answer to each instruction.

    An answer has `num_positions`, or as many as are drawn from the lengths that the model was trained on.

    Raises:
        UserError: the denoiser was not trained on instructions, or one is empty.
    """
    if stored.config.answers is None:
        raise UserError(f"{stored.folder}: takes no instructions; fine-tune it first, see docs/FINETUNING.md")
    given = [instruction_ids(tokenizer, instruction) for instruction in instructions]
    drawn = stored.config.answers.draw(len(given), rng)
    room = drawn if num_positions is None else np.full(len(given), num_positions)
    lengths = np.array([len(ids) for ids in given]) + room
    rows: dict[int, list[int]] = {}
    calls = corrected = 0
    with Progress("answer", len(given), "texts") as progress:
        for batch in batches_of(lengths, batch_rows):
            known = _conditioning([given[index] for index in batch], int(lengths[batch[0]]))
            sampled = sample_texts(stored.denoiser, plan, known, rng)
            for index, ids in zip(batch.tolist(), sampled.ids.tolist(), strict=True):
                rows[index] = _until_end(ids[len(given[index]) :], tokenizer.end_id)
            calls, corrected = calls + int(sampled.calls.sum()), corrected + int(sampled.corrected.sum())
            progress.add(len(batch))
    answers = [rows[index] for index in range(len(given))]
    words = [tokenizer.decode(ids) for ids in answers]
    return Texts(answers, words, calls / len(given), corrected / len(given))


def _conditioning(given: list[list[int]], length: int) -> Conditioning:
    conditioning = Conditioning.nothing(len(given), length)
    for ids, known, instruction in zip(conditioning.ids, conditioning.known, given, strict=True):
        ids[: len(instruction)], known[: len(instruction)] = instruction, True
    return conditioning


def _until_end(ids: list[int], end_id: int) -> list[int]:
    return ids[: ids.index(end_id)] if end_id in ids else ids
