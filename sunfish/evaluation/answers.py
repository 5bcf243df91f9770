"""Answer instructions with torch: each is given, and its answer is sampled behind it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from sunfish.config.schema.sampler import SamplerConfig
from sunfish.errors import UserError
from sunfish.evaluation.context import Texts, batches_of
from sunfish.model.pretrained import FolderConfig, StoredDenoiser
from sunfish.progress import Progress
from sunfish.sampling.loop import Conditioning, Sampled, SamplerPlan
from sunfish.sampling.torch_backend import sample_texts
from sunfish.text.tokenizer import Tokenizer, instruction_ids

SampleRows = Callable[[Conditioning, np.random.Generator], Sampled]


def denoising(stored: StoredDenoiser, sampler: SamplerConfig) -> SampleRows:
    """Return what samples rows with a denoiser."""
    return partial(sample_texts, stored.denoiser, SamplerPlan.make(sampler, stored.schedule))


def write_answers(
    sample: SampleRows, config: FolderConfig, tokenizer: Tokenizer, instructions: Sequence[str],
    rng: np.random.Generator, batch_rows: int = 50, length: int | None = None,
) -> Texts:  # fmt: skip
    """Return one answer to each instruction, of at most `length` tokens or of a drawn number.

    Raises:
        UserError: the model was not trained on instructions, or one is empty or leaves no room.
    """
    given = [instruction_ids(tokenizer, instruction) for instruction in instructions]
    rooms = _rooms(config, given, rng) if length is None else np.full(len(given), length)
    rows, calls, corrected, started = dict[int, list[int]](), 0, 0, time.perf_counter()
    with Progress("answer", len(given), "texts") as progress:
        for batch in batches_of(np.array([len(ids) for ids in given]) + rooms, batch_rows):
            asked = [given[index] for index in batch]
            conditioning = _conditioning(asked, len(asked[0]) + int(rooms[batch[0]]))
            sampled = sample(conditioning, rng)
            answers = (ids[len(each) :] for each, ids in zip(asked, sampled.ids.tolist(), strict=True))
            rows |= zip(batch.tolist(), (_until_end(ids, tokenizer.end_id) for ids in answers), strict=True)
            calls, corrected = calls + int(sampled.calls.sum()), corrected + int(sampled.corrected.sum())
            progress.add(len(batch))
    num, ids = len(given), [rows[index] for index in range(len(given))]
    took = calls / num, corrected / num, (time.perf_counter() - started) / num
    return Texts(ids, [tokenizer.decode(each) for each in ids], *took)


def _rooms(config: FolderConfig, given: list[list[int]], rng: np.random.Generator) -> np.ndarray:
    answers = config.answers
    if answers is None:
        raise UserError("this model takes no instructions; fine-tune it first, see docs/FINETUNING.md")
    longest = max(map(len, given))
    if longest >= answers.longest:
        says = f"an instruction of {longest} tokens leaves no room in rows of {answers.longest}"
        raise UserError(f"{says}; shorten it")
    return np.array([answers.behind(len(ids)).draw(1, rng)[0] for ids in given])


def _conditioning(given: list[list[int]], length: int) -> Conditioning:
    rows = Conditioning.nothing(len(given), length)
    for ids, known, instruction in zip(rows.ids, rows.known, given, strict=True):
        ids[: len(instruction)], known[: len(instruction)] = instruction, True
    return rows


def _until_end(ids: list[int], end_id: int) -> list[int]:
    return ids[: ids.index(end_id)] if end_id in ids else ids
