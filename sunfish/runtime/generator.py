"""Load an exported folder and write text: onnxruntime, numpy and tokenizers only, never torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from sunfish.diffusion.lengths import RowLengths
from sunfish.diffusion.schedule import NoiseSchedule
from sunfish.errors import UserError
from sunfish.files import read_json
from sunfish.progress import Progress
from sunfish.runtime.folder import check_folder
from sunfish.runtime.memory import require_room, rows_at_once
from sunfish.runtime.prompts import Row, free_row, given_row, infill_row, prompt_ids, prompt_row
from sunfish.runtime.settings import Sampling, Settings, resolve
from sunfish.sampling.onnx_backend import CPU, PRECISIONS, OnnxNetwork, graph_path, open_session, step_graph
from sunfish.sampling.solvers import Given, walk
from sunfish.text.tokenizer import Tokenizer, read_tokenizer

MAX_TEXTS = 1_000_000  # one call keeps all its texts
MAX_LENGTH = 100_000  # tokens of a text
Opening = Callable[[str], ort.InferenceSession]  # a graph's name -> the graph, loaded
Shown = Callable[[np.ndarray], np.ndarray]  # a row's ids -> the positions that people are shown


@dataclass(frozen=True, eq=False)
class Frame:
    """One text at one step: the words as they would stand now, how sure each is (1 where given or settled),
    and which stay.
    """

    step: int  # from 1
    num_steps: int
    words: list[str]  # with their spaces; joined they are the text
    probability: np.ndarray  # (words,)
    stays: np.ndarray  # bool, (words,)
    is_last: bool = False

    @property
    def text(self) -> str:
        """Return the words as one text."""
        return "".join(self.words)


class Sampler:
    """An exported denoiser, ready to write. The same seed gives the same text."""

    def __init__(
        self, open_graph: Opening, tokenizer: Tokenizer, law: NoiseSchedule, config: dict[str, Any]
    ) -> None:
        self.open_graph, self.tokenizer, self.law, self.config = open_graph, tokenizer, law, config
        self.sessions: dict[str, ort.InferenceSession] = {}
        self.lengths = RowLengths.from_json(config["row_lengths"])
        self.session(step_graph(self.resolve(Settings()).table))
        self.guess = self.session("guess") if config.get("guess") else None

    @classmethod
    def load(
        cls,
        folder: Path | str,
        precision: str = "fp32",
        providers: Sequence[str] = CPU,
        num_threads: int | None = None,
    ) -> Sampler:
        """Load a folder, every file it needs held against the manifest.

        `precision` is fp32 or int8; `providers` are ONNX Runtime's, in order of preference.

        Raises:
            UserError: no such folder or precision; a missing, altered or foreign file, by name; a provider
            that is not installed; no room.
        """
        folder = Path(folder)
        if precision not in PRECISIONS:
            raise UserError(f"--precision = {precision}: must be one of {', '.join(PRECISIONS)}")
        check_folder(folder, precision)
        require_room(
            graph_path(folder, "model", precision).with_suffix(".onnx_data").stat().st_size,
            f"the weights of {folder}",
        )
        law = NoiseSchedule.from_json(read_json(folder / "noise_law.json"))
        open_graph = lambda name: open_session(graph_path(folder, name, precision), num_threads, providers)  # noqa: E731
        return cls(open_graph, read_tokenizer(folder), law, read_json(folder / "config.json"))

    def generate(
        self,
        num: int = 1,
        length: int | None = None,
        prompt: str | None = None,
        settings: Settings = Settings(),
    ) -> list[str]:
        """Return `num` texts of at most `length` tokens, freely or carrying on from `prompt`.

        Without `length` a text has the room of the training's longest row; where a model is told lengths,
        that of one drawn from them. A text that may be longer than any of these is written piece by piece,
        each given the end of the one before, until the model ends it."""
        how = self._begin(settings, num, length, MAX_LENGTH)
        rngs = _generators(how.seed, num)
        if length is not None and length > self.lengths.longest:
            return [self.tokenizer.decode(ids) for ids in self._write_long(length, prompt, rngs, how)]
        rows = [self._row(length, prompt, rng) for rng in rngs]
        return [
            self.tokenizer.decode(ids[self._until_end(ids)].tolist()) for ids in self._sample(rows, rngs, how)
        ]

    def _write_long(
        self, length: int, prompt: str | None, rngs: list[np.random.Generator], how: Sampling
    ) -> list[list[int]]:
        """Return texts of more tokens than a row has: of each row the last half of a row's length is given to
        the next one.
        """
        longest, begun = self.lengths.longest, [] if prompt is None else prompt_ids(self.tokenizer, prompt)
        if len(begun) >= length:
            raise UserError(
                f"the prompt has {len(begun)} tokens, which leaves no room in a text of {length}; shorten it or raise --length"
            )
        texts, going = [list(begun) for _ in rngs], list(range(len(rngs)))
        while going:
            given = [texts[k][-(longest // 2) :] for k in going]
            rows = [
                given_row(ids, min(longest, len(ids) + length - len(texts[k])))
                for k, ids in zip(going, given, strict=True)
            ]
            written = self._sample(rows, [rngs[k] for k in going], how)
            for k, ids, row in zip(going, given, written, strict=True):
                texts[k] += row[self._until_end(row)][len(ids) :].tolist()
            ended = {k for k, row in zip(going, written, strict=True) if (row == self.tokenizer.end_id).any()}
            going = [k for k in going if k not in ended and len(texts[k]) < length]
        return texts

    def infill(self, text: str, num: int = 1, settings: Settings = Settings()) -> list[str]:
        """Return `num` ways to fill the gaps of `text`, each the likeliest of several; all else stays as it
        is.

        A gap without a number has another length in each but the first of them, so that it chooses its own.
        """
        filled = self._fill(text, num, self._begin(settings, num, fills=True))
        return [self.tokenizer.decode(ids[self._around_gaps(row)(ids)].tolist()) for row, ids, _ in filled]

    def _fill(self, text: str, num: int, how: Sampling) -> list[tuple[Row, np.ndarray, int]]:
        """Return `num` fillings: the row, its ids, and which candidate each one was."""
        candidates = how.candidates
        begun = [
            self._begin_filling(text, how.seed, place, number)
            for place in range(num)
            for number in range(candidates)
        ]
        rows = [row for row, _ in begun]
        ids = self._sample(rows, [rng for _, rng in begun], how)
        nats = self._nats(ids) if candidates > 1 else np.zeros(num)
        best = nats.reshape(num, candidates).argmin(axis=1)
        chosen = [(place * candidates + number, number) for place, number in enumerate(best.tolist())]
        return [(rows[k], ids[k], number) for k, number in chosen]

    def _begin_filling(
        self, text: str, seed: int, place: int, number: int
    ) -> tuple[Row, np.random.Generator]:
        """Return a candidate's row and what it draws from, which has drawn the lengths of gaps without a
        number already.
        """
        rng = _candidate(seed, place, number)
        return infill_row(self.tokenizer, text, self.lengths, rng if number else None), rng

    def _nats(self, ids: list[np.ndarray]) -> np.ndarray:
        """Return -log p of each text, its length's included."""
        score, nats = self.session("score"), np.zeros(len(ids))
        for length in {len(each) for each in ids}:
            where = [k for k, each in enumerate(ids) if len(each) == length]
            told = {"ids": np.stack([ids[k] for k in where])}
            nats[where] = score.run(["nats"], told)[0].sum(axis=1) + self.lengths.nats(length)
        return nats

    def stream(
        self,
        num: int = 1,
        length: int | None = None,
        prompt: str | None = None,
        settings: Settings = Settings(),
    ) -> Iterator[Frame]:
        """Yield every step of the `num` texts that `generate` returns, one text after the other."""
        how = self._begin(replace(settings, batch=1), num, length, self.lengths.longest)
        for rng in _generators(how.seed, num):
            yield from self._frames(self._row(length, prompt, rng), rng, how, self._until_end)

    def stream_infill(self, text: str, num: int = 1, settings: Settings = Settings()) -> Iterator[Frame]:
        """Yield every step of the `num` fillings that `infill` returns, one after the other."""
        how = self._begin(settings, num, fills=True)
        for place, (_, _, number) in enumerate(self._fill(text, num, how)):
            row, rng = self._begin_filling(text, how.seed, place, number)
            yield from self._frames(row, rng, how, self._around_gaps(row))

    def resolve(self, settings: Settings) -> Sampling:
        """Return the settings with nothing left open, or say what is wrong with them."""
        return resolve(settings, self.config["sampler"], self.law, self.lengths)

    def session(self, name: str) -> ort.InferenceSession:
        """Return a graph, loaded once."""
        if name not in self.sessions:
            self.sessions[name] = self.open_graph(name)
        return self.sessions[name]

    def _row(self, length: int | None, prompt: str | None, rng: np.random.Generator) -> Row:
        given = 0 if prompt is None else len(prompt_ids(self.tokenizer, prompt))
        room = int(self.lengths.draw(1, rng, given + 1)[0]) if length is None else length
        return free_row(room) if prompt is None else prompt_row(self.tokenizer, prompt, room)

    def _begin(
        self, settings: Settings, num: int, length: int | None = None, longest: int = 0, fills: bool = False
    ) -> Sampling:
        """Resolve the settings, and refuse what cannot be done before anything is drawn for it; a filling has
        candidates.
        """
        if not 1 <= num <= MAX_TEXTS:
            raise UserError(f"--num = {num}: must be at least 1 and at most {MAX_TEXTS:,}")
        if length is not None and not 1 <= length <= longest:
            why = (
                ""
                if longest == MAX_LENGTH
                else ", the longest this model was trained at: a longer text is no single walk to look at"
            )
            raise UserError(f"--length = {length}: must lie between 1 and {longest:,}{why}")
        how = self.resolve(settings)
        rows = num * (how.candidates if fills else 1)
        if rows > MAX_TEXTS:
            raise UserError(
                f"--num = {num} of {how.candidates} candidates each: at most {MAX_TEXTS:,} in all; lower --num or --candidates"
            )
        most = self.lengths.longest
        lengths = (
            self.lengths.lengths.tolist()
            if self.lengths.told and length is None
            else [min(length or most, most)]
        )
        rows_at_once(
            self.config, lengths[0], -(-rows // len(lengths)), how.batch
        )  # of some length there will be so many, at least
        return how

    def _sample(self, rows: list[Row], rngs: list[np.random.Generator], how: Sampling) -> list[np.ndarray]:
        """Return each row's ids; rows of one length are sampled together."""
        groups: dict[int, list[int]] = {}
        for k, row in enumerate(rows):
            groups.setdefault(len(row.ids), []).append(k)
        size = {
            length: rows_at_once(self.config, length, len(group), how.batch)
            for length, group in groups.items()
        }
        batches = [part for length, group in groups.items() for part in _parts(group, size[length])]
        sampled: dict[int, np.ndarray] = {}
        with Progress("denoise", len(how.table) * len(batches), "calls") as progress:
            for batch in batches:
                ids = self._sample_batch([rows[k] for k in batch], [rngs[k] for k in batch], how, progress)
                sampled |= dict(zip(batch, ids, strict=True))
        return [sampled[k] for k in range(len(rows))]

    def _sample_batch(
        self, rows: list[Row], rngs: list[np.random.Generator], how: Sampling, progress: Progress
    ) -> np.ndarray:
        given, network = self._start(rows, rngs, how)
        place = np.concatenate(
            [how.table.places(row.known[None], rng) for row, rng in zip(rows, rngs, strict=True)]
        )
        index = 0
        for index in walk(how.table, network, given, place):
            progress.add()
        progress.add(len(how.table) - 1 - index)  # a walk that settled early
        return network.look().ids

    def _start(
        self, rows: list[Row], rngs: list[np.random.Generator], how: Sampling
    ) -> tuple[Given, OnnxNetwork]:
        given = Given(np.stack([row.ids for row in rows]), np.stack([row.known for row in rows]))
        length, emb = given.ids.shape[1], self.config["model"]["emb_dim"]
        noise = lambda: np.stack([rng.standard_normal((length, emb), dtype=np.float32) for rng in rngs])  # noqa: E731
        chance = lambda: np.stack([rng.random(length, dtype=np.float32) for rng in rngs])  # noqa: E731
        return given, OnnxNetwork(
            self.session(step_graph(how.table)), noise, chance, how.temperature, self.guess
        )

    def _frames(self, row: Row, rng: np.random.Generator, how: Sampling, shown: Shown) -> Iterator[Frame]:
        given, network = self._start([row], [rng], how)
        frame: Frame | None = None
        for index in walk(how.table, network, given, how.table.places(given.known, rng)):
            if frame is not None:
                yield frame
            ids, sure, known = (values[0] for values in network.look())
            where = shown(ids)
            words = self._words(ids[where].tolist())
            frame = Frame(index + 1, len(how.table), words, np.where(known, 1.0, sure)[where], known[where])
        if frame is not None:
            yield replace(frame, is_last=True)

    def _words(self, ids: list[int]) -> list[str]:
        """Return what each token adds to the text of those before it; a character that takes several comes
        with its last one.
        """
        begun = [self.tokenizer.decode(ids[: n + 1]).rstrip("\ufffd") for n in range(len(ids) - 1)]
        texts = ["", *begun, self.tokenizer.decode(ids)] if ids else [""]
        return [text[len(before) :] for before, text in pairwise(texts)]

    def _until_end(self, ids: np.ndarray) -> np.ndarray:
        """Return the positions before the first end token."""
        return np.flatnonzero(np.cumsum(ids == self.tokenizer.end_id) == 0)

    def _around_gaps(self, row: Row) -> Shown:
        """Return a function that returns the positions of a text with gaps: none of the filling behind it, no
        end token in a gap.
        """
        last = int(np.flatnonzero(~row.known | (row.ids != self.tokenizer.end_id))[-1])
        return lambda ids: np.flatnonzero(ids[: last + 1] != self.tokenizer.end_id)


def _generators(seed: int, num: int) -> list[np.random.Generator]:
    """Return one generator a text: the k-th text is the same however many are written beside it."""
    return [np.random.default_rng((seed, k)) for k in range(num)]


def _candidate(seed: int, text: int, number: int) -> np.random.Generator:
    """Return the generator of a text's candidate; the first one's is the text's."""
    return np.random.default_rng((seed, text, number) if number else (seed, text))


def _parts(group: list[int], size: int) -> list[list[int]]:
    return [group[i : i + size] for i in range(0, len(group), size)]
