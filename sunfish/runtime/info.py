"""What an exported folder is, said to people and to programs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sunfish.config.convert import build
from sunfish.digests import NAME as DIGESTS
from sunfish.digests import check_digests
from sunfish.files import read_json
from sunfish.runtime import folder as folders
from sunfish.runtime.folder import (
    REMEDY,
    ExportedConfig,
    Measured,
)
from sunfish.sampling.onnx_backend import PRECISIONS, weights_path


@dataclass(frozen=True)
class ComparedSampler:
    """A sampler's ids by a program that runs ONNX, held against torch's."""

    engine: str
    sampler: str
    solver: str
    steps: int
    texts: int
    ids: int
    different_ids: int
    near_ties: int


@dataclass(frozen=True)
class Parity:
    """How exact the graphs are."""

    relative_error_per_call: float
    samplers: tuple[ComparedSampler, ...]


@dataclass(frozen=True)
class Manifest:
    """`manifest.json`."""

    parameters: int
    licence: str
    made_from: dict[str, str]
    versions: dict[str, str]
    parity: Parity
    quality: dict[str, dict[str, float]]
    bytes: dict[str, int]


@dataclass(frozen=True)
class Info:
    """All that a folder says about itself; every listed file is as its digest says."""

    config: ExportedConfig
    manifest: Manifest
    digests: dict[str, str]
    unlisted: tuple[str, ...]  # files of which the folder says nothing

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        config, manifest = dataclasses.asdict(self.config), dataclasses.asdict(self.manifest)
        return {**config, **manifest, "digests": self.digests, "unlisted": list(self.unlisted)}


def read_info(folder: Path) -> Info:
    """Read a folder's configuration and manifest, every file held against its digest.

    Raises:
        UserError: a missing, altered or foreign file, by name.
    """
    config = folders.read_config(folder)
    folders.check_files(folder, config, folders.choose_precision(folder, None))
    digests: dict[str, str] = read_json(folder / DIGESTS)
    small = weights_path(folder, PRECISIONS[1]).relative_to(folder).as_posix()
    needed = folders.needed_files(folder, config, PRECISIONS[1]) if small in digests else []
    check_digests(folder, {**digests, **dict.fromkeys(needed)}, REMEDY)
    folders.read_schedule(folder)
    manifest = build(Manifest, read_json(folder / "manifest.json"), f"{folder / 'manifest.json'}:")
    there = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return Info(config, manifest, digests, tuple(name for name in there if name not in {*digests, DIGESTS}))


def describe(folder: Path, info: Info) -> str:
    """Return it as lines for people."""
    config, manifest, model = info.config, info.manifest, info.config.model
    what = f"{manifest.parameters:,} parameters, {config.vocab_size:,} tokens"
    network = f"{model.num_layers} layers, {model.num_heads} heads, width {model.width}"
    error = f"relative error of a call {manifest.parity.relative_error_per_call:.1e}"
    size = ", ".join(f"{precision} {size / 1e6:,.1f} MB" for precision, size in manifest.bytes.items())
    made_by = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    lines = [
        ("what", f"denoiser {model.name!r}, {what}"),
        ("network", f"{network}, emb {model.emb_dim}"),
        ("texts", f"of up to {config.row_lengths.longest} tokens"),
        ("samples with", _settings(config.sampler.to_dict())),
        *(("measured", _measured(row)) for row in config.measured if row.consistent is not None),
        ("checks drafts", "yes" if config.can_check else "no: it did not learn to"),
        ("sizes", size),
        ("licence", manifest.licence),
        ("made from", f"model.safetensors, sha256 {manifest.made_from.get('model_sha256', 'unknown')}"),
        ("made by", f"{made_by}; format {config.format}"),
        ("parity", f"{error}; ids not as torch's:"),
        *(("", _compared(row)) for row in manifest.parity.samplers),
        *(("quality", f"{name}: {_settings(numbers)}") for name, numbers in manifest.quality.items()),
        ("files", f"{len(info.digests)} in {folder}, each as its digest says:"),
        *(("", f"{digest[:16]}  {name}") for name, digest in info.digests.items()),
        *(("unlisted", f"{name}: {DIGESTS} does not list it") for name in info.unlisted),
    ]
    return "\n".join(f"{name:15}{text}" for name, text in lines)


def _settings(values: dict[str, Any]) -> str:
    shown = {k: f"({_settings(v)})" if isinstance(v, dict) else v for k, v in values.items()}
    return ", ".join(f"{key} {value}" for key, value in shown.items() if value is not None)


def _measured(row: Measured) -> str:
    how = f"{row.sampler} {row.steps}{', checked' if row.check else ''}"
    return f"{how}: {row.consistent:.1%} of texts consistent, {row.valid or 0:.1%} of sentences valid"


def _compared(row: ComparedSampler) -> str:
    counted = f"{row.different_ids} and {row.near_ties} near-ties of {row.ids:,}"
    return f"{row.engine}, {row.sampler} ({row.solver} {row.steps}): {counted}"
