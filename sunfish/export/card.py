"""The model card: the README of an exported folder."""

from __future__ import annotations

from typing import Any

from sunfish.config.schema.export import ExportConfig
from sunfish.config.schema.sampler import SamplerConfig
from sunfish.model.pretrained import StoredDenoiser
from sunfish.sampling.onnx_backend import GRAPHS, graph_names

CARD = """# A SunFish denoiser

A continuous diffusion language model with {parameters:,} parameters, trained on rows of up to {longest}
tokens, exported to ONNX (opset {opset}). Licence of the weights: {licence}. It denoises all positions of a
text at once, and fills gaps in given texts. {checks}

    sunfish generate --model .
    sunfish infill --model . "text with a [MASK] ."

Without SunFish, with any program that runs ONNX:

```python
import json
import numpy as np, onnxruntime, tokenizers

plan = json.load(open("plan.json"))
rows = np.array(plan["rows"], np.float32)
shape = (1, {usual})  # texts, tokens
draws, rng = 1 + int(rows[:, -1].sum()), np.random.default_rng(0)
inputs = {{"noise": rng.standard_normal((draws, *shape, {emb}), np.float32),
          "uniforms": rng.random((draws, *shape), np.float32), "plan": rows,
          "ids": np.zeros(shape, np.int64), "known": np.zeros(shape, bool),
          "temperature": np.full(shape[0], {temperature}, np.float32),
          **{{name: np.array(value, np.float32) for name, value in plan["inputs"].items()}}}}
ids = onnxruntime.InferenceSession("onnx/{sampler}.onnx").run(["text"], inputs)[0]
print(tokenizers.Tokenizer.from_file("tokenizer.json").decode_batch(ids))
```

| file | |
|---|---|
{graphs}
| `onnx/model.onnx_data` | the weights, once for all graphs |
| `onnx/*_quantized.*` | the same in 8 bits, over a file of weights of their own |
| `plan.json` | the recommended sampler as rows, a call each, and its scalars |
| `noise_schedule.json` | t -> logsnr, linear between knots: other plans are made from it |
| `config.json` | sizes, lengths and the recommended sampler |
| `manifest.json` | versions and parity; `digests.json` has the digest of every file |

To fill gaps, set `ids` where `known` is true; the rest is written. Texts end at token {end}.

## Against torch, on the same noise

Largest relative error of a single call: {error:.1e}.

| program | sampler | solver | steps | texts | ids | different | near-ties |
|---|---|---|---|---|---|---|---|
{rows}
{quality}"""
CHECKED = (
    "A causal pass of the same weights checks each draft: what it rejects is corrected and drafted again."
)
KEYS = ("engine", "sampler", "solver", "steps", "texts", "ids", "different_ids", "near_ties")


def model_card(
    manifest: dict[str, Any], stored: StoredDenoiser, config: ExportConfig, sampler: SamplerConfig
) -> str:
    """Return the card of a folder as Markdown."""
    parity, lengths, can_check = manifest["parity"], stored.lengths, stored.config.can_check
    return CARD.format(
        parameters=manifest["parameters"], longest=lengths.longest, opset=config.opset,
        licence=config.licence,
        checks=CHECKED if can_check else "It did not learn to check its drafts.",
        usual=lengths.median,
        emb=stored.denoiser.config.emb_dim, temperature=sampler.temperature,
        sampler="checked_sampler" if sampler.check else "sampler", end=stored.config.end_id,
        graphs="\n".join(f"| `onnx/{name}.onnx` | {GRAPHS[name]} |" for name in graph_names(can_check)),
        error=parity["relative_error_per_call"], rows="\n".join(_row(row) for row in parity["samplers"]),
        quality=_quality(manifest["quality"]),
    )  # fmt: skip


def _row(row: dict[str, Any]) -> str:
    cells = [f"{row[key]:,}" if isinstance(row[key], int) else row[key] for key in KEYS]
    return f"| {' | '.join(cells)} |"


def _quality(quality: dict[str, dict[str, float]]) -> str:
    if not quality:
        return ""
    head = "\n## What 8 bits cost\n\n| | held-out bound, nats per token | rows |\n|---|---|---|\n"
    return head + "".join(
        f"| {name} | {numbers['nats_per_token']:.4f} | {numbers['rows']} |\n"
        for name, numbers in quality.items()
    )
