"""The model card: the README of an exported folder."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from sunfish.config.schema.export import ExportConfig
from sunfish.model.pretrained import StoredDenoiser
from sunfish.sampling.onnx_backend import GRAPHS

CARD = """# A SunFish denoiser

A continuous diffusion language model with {parameters:,} parameters, trained on rows of up to {longest} tokens, exported to ONNX (opset
{opset}). Licence of the weights: {licence}. It takes texts out of noise, many words at a time, and fills gaps in given ones.

    sunfish generate --model .
    sunfish infill --model . "text with a [MASK] ."

Without SunFish, with any program that runs ONNX:

```python
import json
import numpy as np, onnxruntime, tokenizers

recommended = json.load(open("table.json"))
table, steps = np.array(recommended["rows"], np.float32), recommended["steps"]
shape = (1, {usual}, {emb})  # texts, tokens, embedding
draws, rng = (1 + steps, *shape), np.random.default_rng(0)
told = {{"noise": rng.standard_normal(draws, np.float32), "chance": rng.random(draws[:3], np.float32), "table": table,
        "steps": np.array(steps), "place": np.arange(1, shape[1] + 1)[None],
        "ids": np.zeros(shape[:2], np.int64), "known": np.zeros(shape[:2], bool), "temperature": np.full(shape[0], {heat}, np.float32)}}
ids = onnxruntime.InferenceSession("onnx/{sampler}.onnx").run(["text"], told)[0]
print(tokenizers.Tokenizer.from_file("tokenizer.json").decode_batch(ids))
```

| file | |
|---|---|
{graphs}
| `onnx/*_quantized.onnx` | the same in 8 bits, over a file of weights of their own |
| `table.json` | the recommended sampler as a table: what a waiting position does, then a row a step; and the most steps of a text |
| `noise_law.json` | the noise law, t -> logsnr, linear between knots: other tables are made from it |
| `config.json` | sizes, lengths and the recommended settings |
| `manifest.json` | digests, versions, parity |

`place` says in which order words are written, here from left to right; zeros: all at once. To fill gaps, set `ids` where
`known` is true, with place 0; the rest is written. A filling may not fit what comes after it:
`onnx/score.onnx` says which of several makes the likeliest text. Texts end at token {end}.

## Against torch, on the same noise

Largest relative error of a single call: {error:.1e}.

| program | sampler | steps | of which a position takes | texts | ids | different | near-ties |
|---|---|---|---|---|---|---|---|
{walks}
{quality}"""


def model_card(
    manifest: dict[str, Any], stored: StoredDenoiser, section: ExportConfig, names: Container[str]
) -> str:
    """Return the card of a folder with the graphs of these names as Markdown."""
    keys = ("engine", "sampler", "steps", "rows_a_position", "texts", "ids", "different_ids", "near_ties")
    rows = [[walk[key] for key in keys] for walk in manifest["parity"]["walks"]]
    walks = [" | ".join(f"{cell:,}" if isinstance(cell, int) else cell for cell in row) for row in rows]
    lengths = stored.lengths
    return CARD.format(
        parameters=manifest["parameters"], longest=lengths.longest, opset=section.opset, licence=section.licence,
        usual=lengths.usual, emb=stored.denoiser.section.emb_dim, heat=section.sampler_temperature,
        sampler="picard_sampler" if section.sampler_name == "picard" else "sampler",
        graphs="\n".join(f"| `onnx/{name}.onnx` | {says} |" for name, says in GRAPHS.items() if name in names), end=stored.end_id,
        error=manifest["parity"]["relative_error_per_call"], walks="\n".join(f"| {walk} |" for walk in walks),
        quality=_quality(manifest["quality"]),
    )  # fmt: skip


def _quality(quality: dict[str, dict[str, float]]) -> str:
    if not quality:
        return ""
    lines = [
        f"| {name} | {numbers['nats_per_token']:.4f} | {numbers['rows']} |"
        for name, numbers in quality.items()
    ]
    return (
        "\n## What 8 bits cost\n\n| | held-out bound, nats per token | rows |\n|---|---|---|\n"
        + "\n".join(lines)
        + "\n"
    )
