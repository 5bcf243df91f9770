"""What is evaluated: a denoiser, the shards it was trained on, and how its text is to be judged."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sunfish.config.schema.data import DataConfig, Stories
from sunfish.config.schema.evaluate import EvaluateConfig
from sunfish.errors import UserError
from sunfish.evaluation.bound import Path as Clocked
from sunfish.evaluation.judge import ReferenceJudge, measure_mauve, read_judge, require_enough
from sunfish.evaluation.quality import story_metrics, text_metrics
from sunfish.model.guess import Guess
from sunfish.model.pretrained import StoredDenoiser, read_denoiser
from sunfish.progress import Progress
from sunfish.sampling.solvers import Table, make_table
from sunfish.sampling.torch_backend import sample_free
from sunfish.text.batches import RowDataset
from sunfish.text.lexicon import GRAMMARS, Grammar
from sunfish.text.shards import Shards, sha256

Numbers = dict[str, float]


def grammar_of(data: DataConfig) -> Grammar | None:
    """Return the grammar whose stories the data are; None where they are anything else, or of several."""
    names = {source.grammar if isinstance(source, Stories) else None for source in data.sources.values()}
    name = names.pop()
    return None if names or name is None else GRAMMARS[name]


@dataclass(frozen=True)
class Texts:
    """Texts as ids up to the first end token and as words, and what one took to write: calls and a batch's
    share of seconds, 0 if real.
    """

    ids: list[list[int]]
    words: list[str]
    seconds_each: float = 0.0
    calls_each: float = 0.0


@dataclass(frozen=True)
class EvalContext:
    """A denoiser and all that its evaluation needs beside it."""

    stored: StoredDenoiser
    shards: Shards
    held_out: Rows
    grammar: Grammar | None  # of stories; None: any other text
    section: EvaluateConfig
    yardstick: ReferenceJudge | None = None  # who says how likely texts are
    guess: Guess | None = None  # what a walk at once begins with

    @classmethod
    def read(
        cls, denoiser: Path, shards_dir: Path, data: DataConfig, section: EvaluateConfig, device: str = "cpu"
    ) -> EvalContext:
        """Read both folders; the judge comes with `with_judge`.

        Raises:
            UserError: they have different tokenizers, or there is no held-out row.
        """
        stored, shards = read_denoiser(denoiser), Shards(shards_dir)
        if sha256(denoiser / "tokenizer.json") != shards.manifest["tokenizer_sha256"]:
            raise UserError(
                f"{denoiser}: was trained with another tokenizer than {shards_dir}; run the pretrain stage again"
            )
        stored.denoiser.to(device)
        return cls(stored, shards, RowDataset(shards, "heldout", data), grammar_of(data), section)

    def with_judge(self) -> EvalContext:
        """Return the subject with the configured judge, if there is one, and what it makes of real texts.

        Raises:
            UserError: there is no such judge, or too little for it to compare.
        """
        section, beside = self.section, self.num_real
        if not section.judge:
            return self
        require_enough(section.num_samples, len(self.held_out))
        judge = read_judge(section.judge, self.shards, next(self.stored.denoiser.parameters()).device)
        real = self.real_texts(2 * beside)
        return dataclasses.replace(
            self, yardstick=ReferenceJudge(judge, judge.read(real.ids[beside:], real.words[beside:]))
        )

    @property
    def num_real(self) -> int:
        """Return how many held-out texts stand beside samples: as many, or half of all, since MAUVE holds
        both against as many others.
        """
        return min(self.section.num_samples, max(1, len(self.held_out) // 2))

    @property
    def path(self) -> Clocked:
        """Return the path that the bound is taken along."""
        return Clocked(self.section.order, self.section.bound_together)

    def table(self) -> Table:
        """Return the configured sampler's table."""
        section = self.section
        return make_table(
            section.sampler,
            self.stored.law,
            section.num_steps,
            section.eta,
            section.settle,
            section.window_steps,
            section.order,
            section.floor,
        )

    def told(self, **changes: Any) -> EvalContext:
        """Return the same subject, some of its section's values changed."""
        return dataclasses.replace(self, section=dataclasses.replace(self.section, **changes))

    def write_texts(self, num: int, seed: int) -> Texts:
        """Sample `num` texts as configured."""
        table, heat = self.table(), self.section.temperature
        rng, rows, calls = np.random.default_rng((self.section.seed, seed)), list[list[int]](), 0
        values, counts = np.unique(self.stored.lengths.draw(num, rng), return_counts=True)
        started = time.perf_counter()
        with Progress(f"sample x {len(table)}, T {heat:g}", num, "texts") as progress:
            for length, total in zip(values.tolist(), counts.tolist(), strict=True):
                for start in range(0, total, self.section.batch_rows):
                    count = min(self.section.batch_rows, total - start)
                    ids, taken = sample_free(
                        self.stored.denoiser, table, count, length, rng, heat, self.guess
                    )
                    rows += self.cut(ids)
                    calls += int(taken.sum())
                    progress.add(count)
        seconds = time.perf_counter() - started
        return dataclasses.replace(
            self.texts([rows[k] for k in rng.permutation(num)], seconds / num), calls_each=calls / num
        )

    def real_texts(self, num: int) -> Texts:
        """Return the first `num` held-out rows."""
        return self.texts(self.cut(self.held_out.read(self.held_out.first(num))))

    def texts(self, rows: list[list[int]], seconds_each: float = 0.0) -> Texts:
        """Return rows of ids as texts."""
        return Texts(rows, [self.shards.tokenizer.decode(row) for row in rows], seconds_each)

    def cut(self, ids: np.ndarray) -> list[list[int]]:
        """Return rows up to their first end token."""
        end = self.shards.end_id
        return [row[: row.index(end)] if end in row else row for row in ids.tolist()]

    def words_of(self, ids: np.ndarray) -> list[str]:
        """Return a row's tokens, one by one; nothing for end tokens."""
        end, decode = self.shards.end_id, self.shards.tokenizer.decode
        return ["" if token == end else decode([token]).strip() for token in ids.tolist()]

    def judge(self, texts: Texts, near: bool = False) -> Numbers:
        """Return all that can be said of texts; with a judge how likely it finds them and, if asked, how
        `near` they are to real ones.
        """
        taken = {"seconds_per_text": texts.seconds_each, "calls_per_text": texts.calls_each}
        written = {name: value for name, value in taken.items() if value}
        told = story_metrics(texts.words, self.grammar) if self.grammar else {}
        if self.yardstick:
            judged = self.yardstick.judge.read(texts.ids, texts.words)
            written |= {
                "judged_perplexity": judged.perplexity,
                **(measure_mauve(judged, self.yardstick.real) if near else {}),
            }
        return {**told, **text_metrics(texts.ids, texts.words), **written}
