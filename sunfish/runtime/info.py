"""What an exported folder is, said to people and to programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sunfish.files import read_json
from sunfish.runtime.folder import check_folder


def read_info(folder: Path) -> dict[str, Any]:
    """Return the folder's configuration and manifest, every file held against its digest.

    Raises:
        UserError: a missing, altered or foreign file, by name.
    """
    manifest = check_folder(folder)
    return {**read_json(folder / "config.json"), **manifest}


def describe(folder: Path, info: dict[str, Any]) -> str:
    """Return it as lines for people."""
    model, sampler, lengths = info["model"], info["sampler"], info["row_lengths"]["lengths"]
    size = ", ".join(f"{precision} {size / 1e6:,.1f} MB" for precision, size in info["bytes"].items())
    lines = [
        (
            "what",
            f"SunFish denoiser {model['name']!r}, {info['parameters']:,} parameters, {info['vocab_size']:,} tokens",
        ),
        (
            "network",
            f"{model['num_layers']} layers, {model['num_heads']} heads, width {model['width']}, embeddings of {model['emb_dim']}",
        ),
        ("texts", f"of up to {lengths[-1]} tokens"),
        ("samples with", ", ".join(f"{key} {value}" for key, value in sampler.items())),
        ("sizes", size),
        ("licence", info["licence"]),
        ("made from", f"model.safetensors, sha256 {info['made_from']['model_sha256']}"),
        (
            "made by",
            ", ".join(f"{name} {version}" for name, version in info["versions"].items())
            + f"; format {info['format']}",
        ),
        (
            "parity",
            f"largest relative error of a call {info['parity']['relative_error_per_call']:.1e}; ids that differ from torch's:",
        ),
        *(("", _walk(walk)) for walk in info["parity"]["walks"]),
        *(
            (
                "quality",
                f"{name}: {numbers['nats_per_token']:.4f} nats per token, {numbers['rows']} held-out texts",
            )
            for name, numbers in info["quality"].items()
        ),
        ("files", f"{len(info['sha256'])} in {folder}, each as its digest says:"),
        *(("", f"{digest[:16]}  {name}") for name, digest in info["sha256"].items()),
    ]
    return "\n".join(f"{name:14}{text}" for name, text in lines)


def _walk(walk: dict[str, Any]) -> str:
    counted = f"{walk['different_ids']} and {walk['near_ties']} near-ties of {walk['ids']:,}"
    return f"{walk['engine']}, {walk['sampler']} {walk['steps']}: {counted}"
