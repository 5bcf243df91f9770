"""Load an exported folder and write text: onnxruntime, numpy and tokenizers only, never torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sunfish.files import read_json
from sunfish.problems import Problem
from sunfish.progress import Progress
from sunfish.runtime.prompts import Row, free_row, infill_row, prompt_row
from sunfish.sampler import Step, Table, likeliest_ids, make_table, walk
from sunfish.schedule import NoiseLaw
from sunfish.session import Session
from sunfish.text.tokenizer import Tokenizer, read_tokenizer

FORMAT = 1
BATCH_ROWS = 16


@dataclass(frozen=True)
class Settings:
    """How to sample; None takes what the folder recommends."""

    sampler: str | None = None
    steps: int | None = None
    eta: float | None = None
    temperature: float = 1.0
    seed: int = 0


class Sampler:
    """An exported denoiser, ready to write. The same seed gives the same text."""

    def __init__(self, session: Session, tokenizer: Tokenizer, law: NoiseLaw, table: np.ndarray, config: dict[str, Any]) -> None:
        self.session, self.tokenizer, self.law, self.embedding, self.config = session, tokenizer, law, table, config
        self.length: int = config["row_length"]

    @classmethod
    def load(cls, folder: Path | str, num_threads: int | None = None) -> Sampler:
        """Load a folder, every file held against its manifest.

        Raises:
            Problem: no such folder, or a missing, altered or foreign file, by name.
        """
        folder = Path(folder)
        check_folder(folder)
        law = NoiseLaw.from_json(read_json(folder / "noise_law.json"))
        embedding = np.load(folder / "embedding.npy", allow_pickle=False)
        session = Session(folder / "onnx" / "model.onnx", num_threads)
        return cls(session, read_tokenizer(folder), law, embedding, read_json(folder / "config.json"))

    def generate(self, num: int = 1, length: int | None = None, prompt: str | None = None, settings: Settings = Settings()) -> list[str]:
        """Return `num` texts of at most `length` tokens, freely or carrying on from `prompt`."""
        length = self._checked_length(length)
        if num < 1:
            raise Problem(f"--num = {num}: must be at least 1")
        row = free_row(length) if prompt is None else prompt_row(self.tokenizer, prompt, length)
        return [self.tokenizer.decode_row(ids.tolist()) for ids in self._sample([row] * num, settings)]

    def infill(self, text: str, num: int = 1, settings: Settings = Settings()) -> list[str]:
        """Return `num` ways to fill the gaps of `text`; all else stays as it is."""
        row = infill_row(self.tokenizer, text, self.length)
        end = int(np.flatnonzero(~row.known | (row.ids != self.tokenizer.end_id))[-1]) + 1
        return [self.tokenizer.decode(ids[:end].tolist()).replace(self.tokenizer.end, "") for ids in self._sample([row] * num, settings)]

    def table(self, settings: Settings) -> Table:
        """Return the sampler's table, or say what is wrong with the settings."""
        recommended = self.config["sampler"]
        steps = settings.steps if settings.steps is not None else recommended["steps"]
        eta = settings.eta if settings.eta is not None else recommended["eta"]
        if settings.temperature <= 0:
            raise Problem(f"--temperature = {settings.temperature}: must be above 0")
        if settings.seed < 0:
            raise Problem(f"--seed = {settings.seed}: must not be negative")
        try:
            return make_table(settings.sampler or recommended["name"], self.law, steps, eta)
        except ValueError as error:
            raise Problem(str(error)) from error

    def _checked_length(self, length: int | None) -> int:
        if length is None:
            return self.length
        if not 1 <= length <= self.length:
            raise Problem(f"--length = {length}: must lie between 1 and {self.length}, the length this model was trained at")
        return length

    def _sample(self, rows: list[Row], settings: Settings) -> Iterator[np.ndarray]:
        table = self.table(settings)
        with Progress("denoise", len(table) * -(-len(rows) // BATCH_ROWS), "calls") as progress:
            for start in range(0, len(rows), BATCH_ROWS):
                yield from self._sample_batch(rows[start : start + BATCH_ROWS], start, table, settings, progress)

    def _sample_batch(self, rows: list[Row], first: int, table: Table, settings: Settings, progress: Progress) -> np.ndarray:
        ids, known = np.stack([row.ids for row in rows]), np.stack([row.known for row in rows])
        given = known[..., None].astype(np.float32)
        # one generator a text: the k-th text is the same however many are written beside it
        rngs = [np.random.default_rng((settings.seed, first + k)) for k in range(len(rows))]
        shape = (ids.shape[1], self.embedding.shape[1])
        noise = lambda: np.stack([rng.standard_normal(shape, dtype=np.float32) for rng in rngs])  # noqa: E731
        steps = walk(table, self.session.denoise(known, settings.temperature), noise, self.embedding[ids] * given, given)
        last = Step(0, None, None)
        for last in steps:
            progress.add()
        return likeliest_ids(last, ids, known)


def check_folder(folder: Path) -> dict[str, Any]:
    """Hold every file of an exported folder against its manifest, and return the manifest.

    Raises:
        Problem: no such folder, or a missing or altered file, by name.
    """
    if not (folder / "manifest.json").is_file():
        raise Problem(f"{folder}: is not an exported model (it has no manifest.json); `make repro` or the export stage writes one")
    manifest: dict[str, Any] = read_json(folder / "manifest.json")
    if manifest.get("format") != FORMAT:
        raise Problem(f"{folder}: was exported in format {manifest.get('format')}, this version reads format {FORMAT}; export it again")
    for name, digest in manifest["sha256"].items():
        path = folder / name
        if not path.is_file():
            raise Problem(f"{path}: is missing; export the model again or copy the whole folder")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise Problem(f"{path}: was altered or cut off (its sha256 is not the manifest's); export the model again")
    return manifest
