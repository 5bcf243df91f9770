"""Load an exported folder and write text: onnxruntime, numpy and tokenizers only, never torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np

from sunfish.diffusion.schedule import NoiseSchedule
from sunfish.errors import UserError
from sunfish.runtime.batches import Batches, Written
from sunfish.runtime.folder import (
    ExportedConfig,
    check_files,
    choose_precision,
    read_config,
    read_schedule,
)
from sunfish.runtime.frames import Frame, frames
from sunfish.runtime.long_texts import write_long
from sunfish.runtime.memory import require_room as require_memory
from sunfish.runtime.memory import rows_at_once
from sunfish.runtime.prompts import (
    Row,
    answer_end,
    empty_gaps,
    free_row,
    given_row,
    infill_row,
    is_gap_alone,
    prompt_ids,
    require_room,
    unseen_note,
)  # fmt: skip
from sunfish.runtime.settings import Resolved, Settings, few_steps, resolve
from sunfish.sampling.onnx_backend import CPU, OpenGraph, graph_path, open_session, weights_path
from sunfish.text.tokenizer import Tokenizer, instruction_ids, read_tokenizer

MAX_TEXTS = 1_000_000  # one call keeps all its texts
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


def say_note(note: str) -> None:
    """Print a note to standard error."""
    print(f"note: {note}", file=sys.stderr)


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
        require_memory(weights_path(folder, precision).stat().st_size, f"the weights of {folder}")
        open_graph = cache(
            lambda name: open_session(graph_path(folder, name, precision), num_threads, providers)
        )
        return cls(open_graph, read_tokenizer(folder), read_schedule(folder), config, note)

    def generate(
        self,
        num: int = 1,
        length: int | None = None,
        prompt: str | None = None,
        settings: Settings = Settings(),
        instruction: str | None = None,
    ) -> list[Text]:
        """Return `num` texts of at most `length` tokens: free ones, or answers to `instruction`, carrying on
        from `prompt` if there is one.

        Without `length` a model that is told lengths gets one drawn from its training's, and any other the
        room of the longest. A text that may be longer than a row is written in pieces, each given the end
        of the one before, until the model ends it."""
        how = self._begin(settings, num, length, MAX_LENGTH, instruction, prompt)
        rngs = _generators(how.seed, num)
        sample = partial(self.batches.sample, how=how)
        if length is not None and length > self.lengths.longest and instruction is None:
            begun = [] if prompt is None else prompt_ids(self.tokenizer, prompt)
            require_room(begun, length)
            texts = write_long(sample, begun, length, self.lengths.longest, self.tokenizer.end_id, rngs)
            return [self._text(text, np.arange(len(text.ids))) for text in texts]
        shown = self._shown(instruction)
        rows = [self._row(length, prompt, rng, instruction) for rng in rngs]
        return [self._text(written, shown(written.ids)) for written in sample(rows, rngs)]

    def infill(self, text: str, num: int = 1, settings: Settings = Settings()) -> list[Text]:
        """Return `num` ways to fill the gaps of `text`; all else stays as it is.

        A gap without a number has another length in each. A gap alone is a whole text."""
        if is_gap_alone(text):
            return self.generate(num, settings=settings)
        how = self._begin(settings, num, None, MAX_LENGTH, text)
        rngs = _generators(how.seed, num)
        rows = [infill_row(self.tokenizer, text, self.lengths, rng) for rng in rngs]
        written = self.batches.sample(rows, rngs, how)
        empty = sum(
            empty_gaps(self.tokenizer, row, each.ids) for row, each in zip(rows, written, strict=True)
        )
        if empty:
            self.note(
                f"{empty} of the gaps hold no visible word: the model filled them with text ends or blanks"
            )
        return [
            self._text(each, self._around_gaps(row, each.ids))
            for row, each in zip(rows, written, strict=True)
        ]

    def stream(
        self,
        num: int = 1,
        length: int | None = None,
        prompt: str | None = None,
        settings: Settings = Settings(),
        instruction: str | None = None,
    ) -> Iterator[Frame]:
        """Yield each call's outcome for the `num` texts that `generate` returns, one after the other."""
        how = self._begin(replace(settings, batch=1), num, length, self.lengths.longest, instruction, prompt)
        shown = self._shown(instruction)
        for rng in _generators(how.seed, num):
            yield from self._frames(self._row(length, prompt, rng, instruction), rng, how, shown)

    def stream_infill(self, text: str, num: int = 1, settings: Settings = Settings()) -> Iterator[Frame]:
        """Yield every call's outcome for the `num` fillings that `infill` returns, one after the other."""
        if is_gap_alone(text):
            yield from self.stream(num, settings=settings)
            return
        how = self._begin(replace(settings, batch=1), num, None, MAX_LENGTH, text)
        for rng in _generators(how.seed, num):
            row = infill_row(self.tokenizer, text, self.lengths, rng)
            yield from self._frames(row, rng, how, lambda ids, row=row: self._around_gaps(row, ids))  # type: ignore[misc]

    def _begin(
        self, settings: Settings, num: int, length: int | None, longest: int, *given: str | None
    ) -> Resolved:
        """Resolve the settings, and refuse what cannot be done before anything is drawn for it."""
        if not 1 <= num <= MAX_TEXTS:
            raise UserError(f"--num = {num}: must be at least 1 and at most {MAX_TEXTS:,}")
        if length is not None and not 1 <= length <= longest:
            why = (
                ""
                if longest == MAX_LENGTH
                else ", the longest row; a longer text is written in pieces, which --watch does not show"
            )
            raise UserError(f"--length = {length}: must lie between 1 and {longest:,}{why}")
        how = resolve(settings, self.config, length)
        rows_at_once(self.config, min(length or MAX_LENGTH, self.lengths.longest), num, how.batch)
        unseen = [text and unseen_note(self.tokenizer, text) for text in given[-1:]]
        notes = [*unseen, few_steps(how.config, self.config)]
        for note in filter(None, [*notes, None if settings.seed is not None else f"--seed {how.seed}"]):
            self.note(note)
        return how

    def _row(
        self,
        length: int | None,
        prompt: str | None,
        rng: np.random.Generator,
        instruction: str | None = None,
    ) -> Row:
        ids = [] if prompt is None else prompt_ids(self.tokenizer, prompt)
        if instruction is not None:
            asked = instruction_ids(self.tokenizer, instruction)
            return given_row(
                [*asked, *ids], answer_end(len(asked), len(ids), length, self.config.answers, rng)
            )
        if length is None:
            is_told = self.config.model.length_conditioning
            length = int(self.lengths.draw(1, rng, len(ids) + 1)[0]) if is_told else self.lengths.longest
        require_room(ids, length)
        return given_row(ids, length) if ids else free_row(length)

    def _frames(
        self, row: Row, rng: np.random.Generator, how: Resolved, shown: Callable[[np.ndarray], np.ndarray]
    ) -> Iterator[Frame]:
        return frames(*self.batches.start([row], [rng], how), self.tokenizer, shown)

    def _text(self, written: Written, positions: np.ndarray) -> Text:
        text = self.tokenizer.decode(written.ids[positions].tolist())
        return Text(text, written.calls, written.corrected, written.seconds)

    def _shown(self, instruction: str | None) -> Callable[[np.ndarray], np.ndarray]:
        """Return what finds the positions of a row that are shown: those behind the instruction, up to the
        first end token.
        """
        skip = 0 if instruction is None else len(instruction_ids(self.tokenizer, instruction))
        return lambda ids: skip + np.flatnonzero(np.cumsum(ids[skip:] == self.tokenizer.end_id) == 0)

    def _around_gaps(self, row: Row, ids: np.ndarray) -> np.ndarray:
        """Return the positions of a text with gaps: none of the filling behind it, no end token in a gap."""
        last = int(np.flatnonzero(~row.known | (row.ids != self.tokenizer.end_id))[-1])
        return np.flatnonzero(ids[: last + 1] != self.tokenizer.end_id)


def _generators(seed: int, num: int) -> list[np.random.Generator]:
    """Return one generator a text: the k-th text is the same however many are written beside it."""
    return [np.random.default_rng((seed, k)) for k in range(num)]
