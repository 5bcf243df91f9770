"""Answer instructions with torch: a denoiser's folder, or a base and an adapter over it.

python -m pipelines.finetune.write --adapter models/finetuned/lora "write a story about anna and a wolf"
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from sunfish.config.compose import read_section
from sunfish.errors import report_errors
from sunfish.evaluation.answers import denoising, write_answers
from sunfish.model.adapter import read_adapted
from sunfish.model.pretrained import read_denoiser
from sunfish.text.tokenizer import read_tokenizer


@report_errors
def main() -> None:
    """Print answers to an instruction."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("instruction")
    parser.add_argument("--params", type=Path, default=Path("pipelines/finetune/params.yaml"))
    parser.add_argument("--base", type=Path, default=Path("models/denoiser"))
    parser.add_argument("--adapter", type=Path, help="without one, the base is to take instructions itself")
    parser.add_argument("--num", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    base, adapter = arguments.base, arguments.adapter
    stored = read_adapted(base, adapter)[0] if adapter else read_denoiser(base)
    sample = denoising(stored, read_section(arguments.params, "sampler"))
    asked, rng = [arguments.instruction] * arguments.num, np.random.default_rng(arguments.seed)
    texts = write_answers(sample, stored.config, read_tokenizer(base), asked, rng)
    print("\n\n".join(texts.words))


if __name__ == "__main__":
    main()
