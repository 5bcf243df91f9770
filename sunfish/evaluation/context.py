"""What is evaluated: a denoiser, the shards it was trained on, and how its texts are sampled and judged."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sunfish.config.schema.data import DataConfig, Puzzles, Stories
from sunfish.config.schema.evaluate import EvaluateConfig
from sunfish.config.schema.sampler import SamplerConfig
from sunfish.errors import UserError
from sunfish.evaluation.judge import ReferenceJudge, read_judge, require_enough
from sunfish.files import sha256
from sunfish.model.pretrained import StoredDenoiser, read_denoiser
from sunfish.progress import Progress
from sunfish.sampling.loop import Conditioning, SamplerPlan
from sunfish.sampling.torch_backend import sample_texts
from sunfish.text.batches import RowDataset
from sunfish.text.lexicon import GRAMMARS, Grammar
from sunfish.text.shards import Shards

Numbers = dict[str, float]


@dataclass(frozen=True)
class Texts:
    """Texts as token ids up to the first end token and as words, and what one took on average.

    Nothing was sampled where `calls` is 0: the texts are real."""

    ids: list[list[int]]
    words: list[str]
    calls: float = 0.0  # denoising steps and checks per text
    corrected: float = 0.0  # tokens per text that a check replaced
    seconds: float = 0.0  # per text: a batch's time shared by its texts

    def __len__(self) -> int:
        """Return how many texts there are."""
        return len(self.words)


@dataclass(frozen=True)
class EvalContext:
    """A denoiser and all that its evaluation needs beside it."""

    stored: StoredDenoiser
    shards: Shards
    held_out: RowDataset
    grammar: Grammar | None  # of stories; None: any other text
    config: EvaluateConfig
    sampler: SamplerConfig  # without a check where the model has not learned one
    reference: ReferenceJudge | None = None
    puzzle_size: int | None = None  # of solved grids; None: any other text

    @classmethod
    def read(
        cls, denoiser: Path, shards_dir: Path, data: DataConfig, config: EvaluateConfig,
        sampler: SamplerConfig, device: str = "cpu",
    ) -> EvalContext:  # fmt: skip
        """Read both folders; the judge comes with `with_judge`.

        Raises:
            UserError: they have different tokenizers, or there is no held-out row.
        """
        stored, shards = read_denoiser(denoiser), Shards(shards_dir)
        if sha256(denoiser / "tokenizer.json") != shards.manifest["tokenizer_sha256"]:
            says = f"{denoiser}: has another tokenizer than {shards_dir}"
            raise UserError(f"{says}; run the pretrain stage again")
        stored.denoiser.to(device)
        sampler = sampler if stored.config.can_check else dataclasses.replace(sampler, check=None)
        held_out, size = RowDataset(shards, "heldout", data), puzzle_size_of(data)
        return cls(stored, shards, held_out, grammar_of(data), config, sampler, puzzle_size=size)

    def with_judge(self) -> EvalContext:
        """Return the context with the configured judge, if there is one, and what it makes of real texts.

        Raises:
            UserError: there is no such judge, or too little for it to compare.
        """
        if not self.config.judge:
            return self
        require_enough(self.config.num_samples, len(self.held_out))
        judge = read_judge(self.config.judge, self.shards, self.device)
        real = self.real_texts(2 * self.num_real)
        others = judge.read(real.ids[self.num_real :], real.words[self.num_real :])
        return dataclasses.replace(self, reference=ReferenceJudge(judge, others))

    @property
    def device(self) -> torch.device:
        """Return where the denoiser computes."""
        return next(self.stored.denoiser.parameters()).device

    @property
    def num_real(self) -> int:
        """Return how many held-out texts stand beside samples.

        As many as samples, or half of all: MAUVE holds both against as many others."""
        return min(self.config.num_samples, max(1, len(self.held_out) // 2))

    @property
    def draft_sampler(self) -> SamplerConfig:
        """Return the configured sampler without its check."""
        return dataclasses.replace(self.sampler, check=None)

    def plan(self, sampler: SamplerConfig) -> SamplerPlan:
        """Return the plan of a sampler under the denoiser's own noise schedule."""
        return SamplerPlan.make(sampler, self.stored.schedule)

    def write_texts(
        self, sampler: SamplerConfig, num: int, seed: int, lengths: np.ndarray | None = None
    ) -> Texts:
        """Sample `num` texts, of these row lengths or of drawn ones; each batch holds one length."""
        rng = np.random.default_rng((self.config.seed, seed))
        lengths = self.stored.lengths.draw(num, rng) if lengths is None else lengths
        plan, rows = self.plan(sampler), dict[int, list[int]]()
        calls = corrected = 0
        started = time.perf_counter()
        with Progress(f"sample {name_of(sampler)}", num, "texts") as progress:
            for batch in batches_of(lengths, self.config.batch_rows):
                nothing = Conditioning.nothing(len(batch), int(lengths[batch[0]]))
                sampled = sample_texts(self.stored.denoiser, plan, nothing, rng)
                rows |= zip(batch.tolist(), self.cut(sampled.ids), strict=True)
                calls, corrected = calls + int(sampled.calls.sum()), corrected + int(sampled.corrected.sum())
                progress.add(len(batch))
        seconds = time.perf_counter() - started
        texts = self.texts([rows[index] for index in range(num)])
        return dataclasses.replace(texts, calls=calls / num, corrected=corrected / num, seconds=seconds / num)

    def real_texts(self, num: int) -> Texts:
        """Return the first `num` held-out rows."""
        return self.texts(self.cut(self.held_out.read(self.held_out.first(num))))

    def texts(self, rows: list[list[int]]) -> Texts:
        """Return rows of ids as texts."""
        return Texts(rows, [self.shards.tokenizer.decode(row) for row in rows])

    def cut(self, ids: np.ndarray) -> list[list[int]]:
        """Return rows up to their first end token."""
        end = self.shards.end_id
        return [row[: row.index(end)] if end in row else row for row in ids.tolist()]

    def token_texts(self, ids: np.ndarray) -> list[str]:
        """Return a row's tokens one by one; nothing for end tokens."""
        end, decode = self.shards.end_id, self.shards.tokenizer.decode
        return ["" if token == end else decode([token]).strip() for token in ids.tolist()]


def grammar_of(data: DataConfig) -> Grammar | None:
    """Return the grammar whose stories the data are; None where they are anything else, or of several."""
    sources = data.sources.values()
    names = {each.grammar if isinstance(each, Stories) and not each.has_turns else None for each in sources}
    name = names.pop()
    return None if names or name is None else GRAMMARS[name]


def puzzle_size_of(data: DataConfig) -> int | None:
    """Return the size of the solved grids that the data are; None where they are anything else."""
    sources = list(data.sources.values())
    alone = len(sources) == 1 and isinstance(sources[0], Puzzles) and sources[0].prompt == "none"
    return sources[0].size if alone else None


def batches_of(lengths: np.ndarray, batch_rows: int) -> list[np.ndarray]:
    """Return the indices of equal lengths together, at most `batch_rows` at once."""
    groups = [np.flatnonzero(lengths == length) for length in np.unique(lengths)]
    return [group[k : k + batch_rows] for group in groups for k in range(0, len(group), batch_rows)]


def name_of(sampler: SamplerConfig) -> str:
    """Return a short name: `ddim-8`, `ddpm-64-kept-0.9`, `ddim-8-checked`."""
    kept = f"-kept-{sampler.confidence_threshold:g}" if sampler.confidence_threshold < 1.0 else ""
    return f"{sampler.name}-{sampler.steps}{kept}" + ("" if sampler.check is None else "-checked")
