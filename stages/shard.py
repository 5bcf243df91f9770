"""documents -> data/shards: tokenizer, token shards, manifest."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from pathlib import Path

from sunfish.config import ConfigError, read_section
from sunfish.problems import report_problems
from sunfish.sections.data import Hub, Section
from sunfish.text.corpus import read_documents
from sunfish.text.shards import write_shards
from sunfish.text.tokenizer import Tokenizer, load_pretrained, train_tokenizer


def shard(section: Section, out_dir: Path) -> None:
    """Write the corpus of `section` as shards."""
    manifest = write_shards(
        out_dir,
        read_documents(section.source),
        make_tokenizer(section),
        held_out_share=section.held_out_share,
        shard_tokens=section.shard_tokens,
        max_tokens=section.source.max_tokens if isinstance(section.source, Hub) else None,
        made_of=dataclasses.asdict(section),
    )
    for name, split in manifest["splits"].items():
        print(f"{out_dir}: {name}: {split['documents']:,} documents, {split['tokens']:,} tokens, {split['bytes']:,} bytes of text")


def make_tokenizer(section: Section) -> Tokenizer:
    """Load or train the tokenizer; a pretrained one must have the size the configuration says."""
    wanted = section.tokenizer
    if wanted.pretrained is None:
        sample = itertools.islice(read_documents(section.source), wanted.train_documents)
        return train_tokenizer(sample, wanted.vocab_size, wanted.unit)
    tokenizer = load_pretrained(wanted.pretrained)
    if tokenizer.vocab_size != wanted.vocab_size:
        raise ConfigError(
            f"params.yaml: data.tokenizer.vocab_size = {wanted.vocab_size}: {wanted.pretrained} has "
            f"{tokenizer.vocab_size} entries; set it so"
        )
    return tokenizer


@report_problems
def main() -> None:
    """Tokenize the corpus and write it as shards."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--out", type=Path, required=True, help="folder of shards to write")
    arguments = parser.parse_args()
    shard(read_section(arguments.params, "data", Section), arguments.out)


if __name__ == "__main__":
    main()
