"""Load an exported folder and write text: onnxruntime, numpy and tokenizers only, never torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from sunfish.diffusion.schedule import NoiseSchedule
from sunfish.errors import UserError
from sunfish.runtime import memory, prompts
from sunfish.runtime.batches import Batches, Written
from sunfish.runtime.folder import (
    REMEDY,
    ExportedConfig,
    check_files,
    choose_precision,
    read_config,
    read_schedule,
)
from sunfish.runtime.frames import Frame, frames
from sunfish.runtime.notes import say_note
from sunfish.runtime.prompts import Row
from sunfish.runtime.settings import Resolved, Settings, few_steps, resolve
from sunfish.sampling.onnx_backend import CPU, OpenGraph, graph_path, open_session, weights_path
from sunfish.text.tokenizer import Tokenizer, instruction_ids, read_tokenizer

USUAL = Settings()
MAX_TEXTS = 100_000  # one call keeps all its texts, and some kilobytes of each
MAX_LENGTH = 100_000  # tokens of a text


@dataclass(frozen=True)
class Text:
    """A text, and what it took."""

    text: str
    calls: int  # of the network: denoising steps and checks
    corrected: int  # tokens that a check replaced
    seconds: float  # its share of a batch

    def __str__(self) -> str:
        return self.text


class Sampler:
    """An exported denoiser, ready to write. The same seed gives the same text.

    `note` is called with what a user should know and did not ask."""

    def __init__(
        self,
        open_graph: OpenGraph,
        tokenizer: Tokenizer,
        schedule: NoiseSchedule,
        config: ExportedConfig,
        note: Callable[[str], None] = say_note,
    ) -> None:
        self.tokenizer, self.config = tokenizer, config
        self.lengths, self.note = config.row_lengths, note
        self.batches = Batches(open_graph, schedule, config)
        open_graph("step")

    @classmethod
    def load(
        cls,
        folder: Path | str,
        precision: str | None = None,
        providers: Sequence[str] = CPU,
        num_threads: int | None = None,
        note: Callable[[str], None] = say_note,
    ) -> Sampler:
        """Load a folder, every file it needs held against its digest.

        `precision` is fp32 or int8, None the most exact one that there is; `providers` are ONNX Runtime's,
        in order of preference.

        Raises:
            UserError: no such folder or precision; a missing, altered or foreign file, by name; a provider
            that is not installed; no room.
        """
        folder = Path(folder)
        config = read_config(folder)
        precision = choose_precision(folder, precision)
        check_files(folder, config, precision)
        memory.require_room(weights_path(folder, precision).stat().st_size, f"the weights of {folder}")

        def open_graph(name: str) -> Any:
            return open_session(graph_path(folder, name, precision), num_threads, providers)

        sampler = cls(cache(open_graph), read_tokenizer(folder), read_schedule(folder), config, note)
        sampler._require_one_model(folder)
        return sampler

    def _require_one_model(self, folder: Path) -> None:
        width = self.batches.open_graph("step").get_inputs()[0].shape[-1]
        config, tokenizer = self.config, self.tokenizer
        if width != config.model.emb_dim:
            raise UserError(f"{folder}: config.json and the graphs are not of one model; {REMEDY}")
        if (tokenizer.vocab_size, tokenizer.end_id) != (config.vocab_size, config.end_id):
            raise UserError(f"{folder}: config.json and tokenizer.json are not of one model; {REMEDY}")

    def generate(
        self, num: int = 1, length: int | None = None, prompt: str | None = None, settings: Settings = USUAL,
        instruction: str | None = None,
    ) -> list[Text]:  # fmt: skip
        """Return `num` texts of at most `length` tokens, free or answers to `instruction`, that begin with
        `prompt`.

        Without `length` a model that is told lengths gets one drawn from its training's, and any other the
        room of the longest. A text that may be longer than a row is written in pieces, each given the end
        of the one before, until the model ends it. An answer's length is drawn by its instruction's."""
        how = self._begin(settings, num, length, MAX_LENGTH, prompt)
        rngs = _generators(how.seed, num)
        if instruction is None and length is not None and length > self.lengths.longest:
            return self._write_long(length, prompt, rngs, how)
        rows, shown = [self._row(length, prompt, rng, instruction) for rng in rngs], self._shown(instruction)
        return [self._text(row, shown(row.ids)) for row in self.batches.sample(rows, rngs, how)]

    def infill(self, text: str, num: int = 1, settings: Settings = USUAL) -> list[Text]:
        """Return `num` ways to fill the gaps of `text`; all else stays as it is.

        A gap without a number has another length in each. A gap alone is a whole text."""
        if prompts.is_gap_alone(text):
            return self.generate(num, settings=settings)
        how = self._begin(settings, num, None, MAX_LENGTH, text, has_gaps=True)
        rngs = _generators(how.seed, num)
        rows = [prompts.infill_row(self.tokenizer, text, self.lengths, rng) for rng in rngs]
        written = list(zip(rows, self.batches.sample(rows, rngs, how), strict=True))
        if empty := sum(prompts.empty_gaps(self.tokenizer, row, each.ids) for row, each in written):
            filled = "the model filled them with text ends or blanks"
            self.note(f"{empty} of the gaps hold no visible word: {filled}")
        return [self._text(each, self._around_gaps(row, each.ids)) for row, each in written]

    def stream(
        self, num: int = 1, length: int | None = None, prompt: str | None = None, settings: Settings = USUAL,
        instruction: str | None = None,
    ) -> Iterator[Frame]:  # fmt: skip
        """Yield each call's outcome for the `num` texts that `generate` returns, one after the other."""
        longest = self.lengths.longest if instruction is None else MAX_LENGTH
        how = self._begin(replace(settings, batch=1), num, length, longest, prompt)
        shown = self._shown(instruction)
        for rng in _generators(how.seed, num):
            yield from self._frames(self._row(length, prompt, rng, instruction), rng, how, shown)

    def stream_infill(self, text: str, num: int = 1, settings: Settings = USUAL) -> Iterator[Frame]:
        """Yield every call's outcome for the `num` fillings that `infill` returns, one after the other."""
        if prompts.is_gap_alone(text):
            yield from self.stream(num, settings=settings)
            return
        how = self._begin(replace(settings, batch=1), num, None, MAX_LENGTH, text, has_gaps=True)
        for rng in _generators(how.seed, num):
            row = prompts.infill_row(self.tokenizer, text, self.lengths, rng)
            yield from self._frames(row, rng, how, partial(self._around_gaps, row))

    def _begin(
        self, settings: Settings, num: int, length: int | None, longest: int, given: str | None,
        has_gaps: bool = False,
    ) -> Resolved:  # fmt: skip
        """Resolve the settings, and refuse what cannot be done before anything is drawn for it."""
        if not 1 <= num <= MAX_TEXTS:
            raise UserError(f"--num = {num}: must be at least 1 and at most {MAX_TEXTS:,}")
        if length is not None and not 1 <= length <= longest:
            why = ", the longest row; a longer text is written in pieces, which --watch does not show"
            why = "" if longest == MAX_LENGTH else why
            raise UserError(f"--length = {length}: must lie between 1 and {longest:,}{why}")
        how = resolve(settings, self.config, length, has_gaps)
        memory.rows_at_once(self.config, min(length or MAX_LENGTH, self.lengths.longest), num, how.batch)
        notes = [given and prompts.unseen_note(self.tokenizer, given), few_steps(how.config, self.config)]
        for note in filter(None, [*notes, None if settings.seed is not None else f"--seed {how.seed}"]):
            self.note(note)
        return how

    def _row(
        self, length: int | None, prompt: str | None, rng: np.random.Generator, instruction: str | None
    ) -> Row:
        ids = [] if prompt is None else prompts.prompt_ids(self.tokenizer, prompt)
        if instruction is not None:
            asked = instruction_ids(self.tokenizer, instruction)
            return prompts.task_row(asked, ids, length, self.config.answers, rng)
        if length is None:
            is_told = self.config.model.length_conditioning
            length = int(self.lengths.draw(1, rng, len(ids) + 1)[0]) if is_told else self.lengths.longest
        prompts.require_room(ids, length)
        return prompts.given_row(ids, length) if ids else prompts.free_row(length)

    def _write_long(
        self, length: int, prompt: str | None, rngs: list[np.random.Generator], how: Resolved
    ) -> list[Text]:
        """Return texts longer than a row: each row is given the last half row of the one before."""
        begun = [] if prompt is None else prompts.prompt_ids(self.tokenizer, prompt)
        longest = self.lengths.longest
        prompts.require_room(begun, length)
        texts = [Written(np.array(begun, np.int64), 0, 0, 0.0) for _ in rngs]
        going = list(range(len(rngs)))
        while going:
            given = {k: texts[k].ids[-(longest // 2) :].tolist() for k in going}
            rooms = {k: min(longest, len(ids) + length - len(texts[k].ids)) for k, ids in given.items()}
            rows = [prompts.given_row(given[k], rooms[k]) for k in going]
            pieces = dict(zip(going, self.batches.sample(rows, [rngs[k] for k in going], how), strict=True))
            for k, piece in pieces.items():
                texts[k] = self._append(texts[k], piece, len(given[k]))
            ended = {k for k, piece in pieces.items() if (piece.ids == self.tokenizer.end_id).any()}
            going = [k for k in going if k not in ended and len(texts[k].ids) < length]
        return [self._text(text, np.arange(len(text.ids))) for text in texts]

    def _append(self, text: Written, piece: Written, num_given: int) -> Written:
        ids = np.concatenate((text.ids, piece.ids[self._until_end(piece.ids)][num_given:]))
        calls, corrected = text.calls + piece.calls, text.corrected + piece.corrected
        return Written(ids, calls, corrected, text.seconds + piece.seconds)

    def _frames(
        self, row: Row, rng: np.random.Generator, how: Resolved, shown: Callable[[np.ndarray], np.ndarray]
    ) -> Iterator[Frame]:
        return frames(*self.batches.start([row], [rng], how), self.tokenizer, shown)

    def _text(self, written: Written, positions: np.ndarray) -> Text:
        text = self.tokenizer.decode(written.ids[positions].tolist())
        return Text(text, written.calls, written.corrected, written.seconds)

    def _shown(self, instruction: str | None) -> Callable[[np.ndarray], np.ndarray]:
        """Return what finds the positions of a row that are shown: those behind the instruction."""
        asked = [] if instruction is None else instruction_ids(self.tokenizer, instruction)
        return partial(self._until_end, start=len(asked))

    def _until_end(self, ids: np.ndarray, start: int = 0) -> np.ndarray:
        return start + np.flatnonzero(np.cumsum(ids[start:] == self.tokenizer.end_id) == 0)

    def _around_gaps(self, row: Row, ids: np.ndarray) -> np.ndarray:
        """Return the positions of a text with gaps: none of the filling behind it, no end token in a gap."""
        last = int(np.flatnonzero(~row.known | (row.ids != self.tokenizer.end_id))[-1])
        return np.flatnonzero(ids[: last + 1] != self.tokenizer.end_id)


def _generators(seed: int, num: int) -> list[np.random.Generator]:
    """Return one generator a text: the k-th text is the same however many are written beside it."""
    return [np.random.default_rng((seed, k)) for k in range(num)]
