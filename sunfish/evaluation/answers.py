"""Answer instructions with a torch denoiser: each is given, and its answer is sampled behind it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sunfish.errors import UserError
from sunfish.evaluation.context import Texts
from sunfish.model.pretrained import StoredDenoiser
from sunfish.progress import Progress
from sunfish.sampling.loop import Conditioning, SamplerPlan
from sunfish.sampling.torch_backend import sample_texts
from sunfish.text.tokenizer import Tokenizer, instruction_ids


def write_answers(
    stored: StoredDenoiser, tokenizer: Tokenizer, plan: SamplerPlan, instructions: Sequence[str],
    rng: np.random.Generator, batch_rows: int = 50,
) -> Texts:  # fmt: skip
    """Return one answer to each instruction; it has the room of a trained row, and the model ends it.

    Raises:
        UserError: the denoiser was not trained on instructions, or one is empty or leaves no room.
    """
    length = stored.config.task_length
    if length is None:
        raise UserError(f"{stored.folder}: takes no instructions; fine-tune it first, see docs/FINETUNING.md")
    given = [instruction_ids(tokenizer, instruction) for instruction in instructions]
    longest = max(map(len, given))
    if longest >= length:
        raise UserError(f"an instruction of {longest} tokens leaves no room in rows of {length}; shorten it")
    answers: list[list[int]] = []
    calls = corrected = 0
    with Progress("answer", len(given), "texts") as progress:
        for start in range(0, len(given), batch_rows):
            batch = given[start : start + batch_rows]
            sampled = sample_texts(stored.denoiser, plan, _conditioning(batch, length), rng)
            rows = zip(batch, sampled.ids.tolist(), strict=True)
            answers += [_until_end(row[len(ids) :], tokenizer.end_id) for ids, row in rows]
            calls, corrected = calls + int(sampled.calls.sum()), corrected + int(sampled.corrected.sum())
            progress.add(len(batch))
    words = [tokenizer.decode(ids) for ids in answers]
    return Texts(answers, words, calls / len(given), corrected / len(given))


def _conditioning(given: list[list[int]], length: int) -> Conditioning:
    rows = Conditioning.nothing(len(given), length)
    for ids, known, instruction in zip(rows.ids, rows.known, given, strict=True):
        ids[: len(instruction)], known[: len(instruction)] = instruction, True
    return rows


def _until_end(ids: list[int], end_id: int) -> list[int]:
    return ids[: ids.index(end_id)] if end_id in ids else ids
