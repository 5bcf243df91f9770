"""denoiser -> a self-contained folder that onnxruntime alone can sample from, held against torch before it is kept."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from sunfish.export.graph import export_graph
from sunfish.export.parity import call_error, walk_parity
from sunfish.files import replacing, write_json
from sunfish.model.store import TOKENIZER_FILES, StoredDenoiser, read_denoiser
from sunfish.problems import Problem
from sunfish.sampler import ddim
from sunfish.sections.export import Section
from sunfish.sections.tracking import Section as Tracking
from sunfish.session import FORMAT, Session
from sunfish.text.shards import sha256
from sunfish.tracking import Tracker

CARD = """# A SunFish denoiser

A continuous diffusion language model with {parameters:,} parameters, trained on rows of up to {row_length} tokens, exported to ONNX
(opset {opset}). It is sampled with `sunfish generate --model .` and `sunfish infill --model . "text with a [MASK] ."`, or by any
program that runs ONNX: `onnx/model.onnx` maps (x_t, logsnr, x_0_prev, known, temperature) to (x_0_hat, logits); `noise_law.json`
holds the noise law (t -> logsnr, linear between knots), `embedding.npy` the token embeddings.

Against torch, on the same noise: {ids:,} ids of {texts} texts after {steps} DDIM steps, {different_ids} different, {near_ties} near-ties;
largest relative error of a single call {error:.1e}.
"""


def export_folder(denoiser_dir: Path, out_dir: Path, metrics_path: Path, section: Section, tracking: Tracking) -> None:
    """Write the folder, its manifest and the parity numbers.

    Raises:
        Problem: the graph does not say what torch says; nothing is written then.
    """
    stored = read_denoiser(denoiser_dir)
    with replacing(out_dir) as folder:
        (folder / "onnx").mkdir(parents=True)
        export_graph(stored.denoiser, folder / "onnx" / "model.onnx", section.opset)
        parity = _hold_against_torch(stored, folder, section)
        _write_rest(stored, folder, section, parity)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        write_json(folder / "manifest.json", {
            "format": FORMAT,
            "sha256": {path.relative_to(folder).as_posix(): sha256(path) for path in files},
            "made_from": {"model_sha256": stored.digest()},
            "versions": {"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
            "parity": parity,
        })  # fmt: skip
        write_json(metrics_path, {"parity": parity, "bytes": sum(path.stat().st_size for path in files)})
    tracker = Tracker(tracking, {"model_sha256": stored.digest()})
    tracker.log_metrics({f"export.{key}": float(value) for key, value in parity.items()})
    tracker.log_artifacts(out_dir, "onnx")
    tracker.close()


def _hold_against_torch(stored: StoredDenoiser, folder: Path, section: Section) -> dict[str, Any]:
    session = Session(folder / "onnx" / "model.onnx", torch.get_num_threads())
    error = call_error(stored, session, np.random.default_rng(0))
    parity = walk_parity(stored, session, ddim(stored.law, section.parity_steps), section.parity_samples, section.tie_margin)
    parity["relative_error_per_call"] = error
    if error > section.max_relative_error:
        raise Problem(f"the exported graph differs from torch by {error:.1e} in one call, more than export.max_relative_error allows")
    return parity


def _write_rest(stored: StoredDenoiser, folder: Path, section: Section, parity: dict[str, Any]) -> None:
    denoiser = stored.denoiser
    model = dataclasses.asdict(denoiser.section)
    sampler = {"name": "ddim", "steps": section.sampler_steps, "eta": section.sampler_eta}
    sampler |= {"temperature": section.sampler_temperature, "settle": section.sampler_settle}
    sizes = {"vocab_size": denoiser.vocab_size, "row_lengths": stored.lengths.to_json(), "end_id": stored.end_id}
    write_json(folder / "config.json", {"model": model, **sizes, "sampler": sampler})
    write_json(folder / "noise_law.json", stored.law.to_json())
    np.save(folder / "embedding.npy", denoiser.embedding.table().detach().numpy().astype(np.float32))
    for name in TOKENIZER_FILES:
        shutil.copyfile(stored.folder / name, folder / name)
    count = sum(p.numel() for p in denoiser.parameters())
    card = CARD.format(
        parameters=count, row_length=stored.lengths.longest, opset=section.opset, error=parity["relative_error_per_call"], **parity
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
