"""What a fine-tuning has beside a pretraining: the base that it starts from, and what it writes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sunfish.config.schema.diffusion import DiffusionConfig
from sunfish.config.schema.lora import LoraConfig
from sunfish.diffusion.lengths import AnswerLengths
from sunfish.diffusion.objectives import OBJECTIVES
from sunfish.diffusion.schedules import FixedSchedule
from sunfish.errors import UserError
from sunfish.files import sha256
from sunfish.model.adapter import with_adapter, write_adapter
from sunfish.model.denoiser import Denoiser
from sunfish.model.pretrained import StoredDenoiser, read_denoiser, write_denoiser


@dataclass(frozen=True)
class Finetune:
    """The base, by folder and digest, and the adapter to train; None: all weights learn."""

    base: str
    base_sha256: str
    lora: LoraConfig | None

    @classmethod
    def of(cls, stored: StoredDenoiser, lora: LoraConfig | None) -> Finetune:
        """Return the fine-tuning of a stored denoiser."""
        return cls(str(stored.folder), stored.digest(), lora)

    def start(self, diffusion: DiffusionConfig) -> tuple[Denoiser, FixedSchedule]:
        """Return the denoiser to train and the noise schedule, which stays the base's."""
        stored = read_denoiser(Path(self.base))
        denoiser = stored.denoiser.train()
        if self.lora is None:
            denoiser.embedding.weight.requires_grad_(OBJECTIVES[diffusion.objective].trains_embeddings)
        else:
            with_adapter(denoiser, self.lora)
        return denoiser, FixedSchedule(stored.schedule)

    def write(self, out: Path, weights: dict[str, Tensor], answers: AnswerLengths, tokenizer: Path) -> Path:
        """Write a denoiser's folder, or an adapter's, and return the file of weights.

        Free texts stay as long as the base's."""
        stored = read_denoiser(Path(self.base))
        if self.lora is not None:
            write_adapter(out, stored, self.lora, weights, answers, tokenizer)
            return out / "adapter_model.safetensors"
        config = dataclasses.replace(stored.config, answers=answers)
        write_denoiser(out, config, weights, stored.schedule, tokenizer)
        return out / "model.safetensors"


def require_fit(stored: StoredDenoiser, shards: Path, diffusion: DiffusionConfig) -> None:
    """Refuse tasks that a base cannot learn from.

    Raises:
        UserError: they have another tokenizer, or the check is to be learned and the base never did.
    """
    if sha256(stored.folder / "tokenizer.json") != sha256(shards / "tokenizer.json"):
        advice = "set data.tokenizer.pretrained to the base's folder and shard again"
        raise UserError(f"{shards}: has another tokenizer than {stored.folder}; {advice}")
    if diffusion.check_weight > 0 and not stored.config.can_check:
        advice = "set diffusion.check_weight to 0, or pretrain the base with one above 0"
        raise UserError(
            f"{stored.folder}: never learned to check (its diffusion.check_weight was 0); {advice}"
        )
