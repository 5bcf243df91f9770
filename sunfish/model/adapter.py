"""LoRA by `peft`: an adapter over a denoiser, its folder in PEFT's format, and merging.

python -m sunfish.model.adapter --base models/denoiser --adapter models/finetuned/lora --out models/merged
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from sunfish.config.convert import nearest
from sunfish.config.schema.lora import LoraConfig
from sunfish.diffusion.lengths import AnswerLengths
from sunfish.digests import write_digests
from sunfish.errors import UserError, report_errors
from sunfish.files import read_json, replacing, require_writable, write_json
from sunfish.model.denoiser import Denoiser
from sunfish.model.pretrained import (
    TOKENIZER_FILES,
    StoredDenoiser,
    Weights,
    read_config,
    read_denoiser,
    write_denoiser,
)

if TYPE_CHECKING:
    from peft import PeftModel

FORMAT = 1
FILES = ("adapter_config.json", "adapter_model.safetensors", "sunfish.json", *TOKENIZER_FILES)
REMEDY = "run the fine-tuning again"
ALL_LINEAR = "all-linear"
NUMBERS = ("noise_level.", "position.")  # what embeds numbers is frozen, as the token embeddings are


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """`sunfish.json`: what PEFT's files do not say."""

    format: int
    base_sha256: str  # of the weights that the adapter was trained over
    answers: AnswerLengths


def with_adapter(denoiser: Denoiser, config: LoraConfig) -> PeftModel:
    """Return a model that trains an adapter over `denoiser`, which is changed in place.

    The adapter starts as no change at all; `get_base_model()` is the denoiser with it.

    Raises:
        UserError: the rank is above the width, or a target names no linear layer.
    """
    import peft  # takes seconds, which a pretraining need not wait for

    if config.rank > denoiser.config.width:
        raise UserError(
            f"lora.rank = {config.rank}: is above the model's width of {denoiser.config.width}; lower it"
        )
    wanted = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # a ratio need not be whole
        lora_dropout=config.dropout,
        target_modules=target_names(denoiser, config.target_modules),
    )
    return peft.get_peft_model(denoiser, wanted)


def target_names(denoiser: Denoiser, targets: tuple[str, ...]) -> list[str]:
    """Return the full names of the linear layers that `targets` name.

    Raises:
        UserError: one names none.
    """
    linear = [
        name
        for name, module in denoiser.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(NUMBERS)
    ]
    if not denoiser.config.tied_head:  # whose weights the readout takes, not what it answers
        linear.remove("head")
    found: list[str] = []
    for target in targets:
        named = [name for name in linear if target == ALL_LINEAR or f".{name}".endswith(f".{target}")]
        if not named:
            ends = sorted({name.split("blocks.")[-1].lstrip("0123456789.") for name in linear})
            raise UserError(
                f"lora.target_modules = {target}: names no linear layer{nearest(target, [ALL_LINEAR, *ends])}"
            )
        found += named
    return sorted(set(found))


def write_adapter(
    out: Path,
    stored: StoredDenoiser,
    config: LoraConfig,
    weights: Weights,
    answers: AnswerLengths,
    tokenizer: Path,
) -> None:
    """Write an adapter's folder whole or not at all; `weights` are those of `stored` with it."""
    model = with_adapter(stored.denoiser, config)
    model.get_base_model().load_state_dict(weights)
    model.peft_config["default"].base_model_name_or_path = str(stored.folder)
    with replacing(out) as folder:
        model.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)
        values = read_json(folder / "adapter_config.json")
        values["target_modules"].sort()  # PEFT keeps them as a set
        write_json(folder / "adapter_config.json", values)
        about = AdapterConfig(FORMAT, stored.digest(), answers)
        write_json(folder / "sunfish.json", dataclasses.asdict(about))
        for name in TOKENIZER_FILES:
            shutil.copyfile(tokenizer / name, folder / name)
        write_digests(folder)


def read_adapted(base: Path, adapter: Path) -> tuple[StoredDenoiser, PeftModel]:
    """Read a denoiser with an adapter over it; the denoiser inside the PEFT model is the stored one.

    `load_adapter` of the PEFT model adds others, `set_adapter` chooses, `disable_adapter` is the base.

    Raises:
        UserError: a missing or altered file, or an adapter that was trained over other weights.
    """
    import peft

    stored = read_denoiser(base)
    about = read_config(adapter, AdapterConfig, FORMAT, FILES, REMEDY, "sunfish.json")
    require_base(stored, about, adapter)
    model: Any = peft.PeftModel.from_pretrained(stored.denoiser, str(adapter))
    config = dataclasses.replace(stored.config, answers=about.answers)
    return dataclasses.replace(stored, denoiser=model.get_base_model().eval(), config=config), model


def require_base(stored: StoredDenoiser, about: AdapterConfig, adapter: Path) -> None:
    """Refuse weights that an adapter was not trained over."""
    if stored.digest() == about.base_sha256:
        return
    if stored.config.answers is not None:
        says = "is fine-tuned already, or has an adapter merged; an adapter goes over its base, once"
    else:
        says = f"is not the base that {adapter} was trained over (its digest differs)"
    raise UserError(f"{stored.folder}: {says}; give the base that starts with {about.base_sha256[:12]}")


def merge_adapter(base: Path, adapter: Path, out_dir: Path) -> None:
    """Write the base with an adapter's change in its weights: a denoiser's folder like any other.

    Raises:
        UserError: as `read_adapted`; nothing is written then.
    """
    require_writable(out_dir)
    stored, model = read_adapted(base, adapter)
    merged: Any = model.merge_and_unload()
    write_denoiser(out_dir, stored.config, merged.state_dict(), stored.schedule, adapter)


@report_errors
def main() -> None:
    """Merge an adapter into its base: a folder that can be evaluated, exported and fine-tuned."""
    parser = argparse.ArgumentParser(prog="python -m sunfish.model.adapter", description=main.__doc__)
    parser.add_argument("--base", type=Path, default=Path("models/denoiser"))
    parser.add_argument("--adapter", type=Path, required=True, help="folder in PEFT's format")
    parser.add_argument("--out", type=Path, required=True, help="denoiser's folder to write")
    arguments = parser.parse_args()
    merge_adapter(arguments.base, arguments.adapter, arguments.out)


if __name__ == "__main__":
    main()
