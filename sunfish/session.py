"""The exported denoiser behind ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from sunfish.problems import Problem
from sunfish.sampler import Given

FORMAT = 3  # of the exported folder: its files and what they hold


class Session:
    """One loaded graph; `call` is the denoiser."""

    def __init__(self, path: Path, num_threads: int | None = None, providers: tuple[str, ...] = ("CPUExecutionProvider",)) -> None:
        missing = [name for name in providers if name not in ort.get_available_providers()]
        if missing:
            raise Problem(f"{missing[0]} is not installed; this onnxruntime has {', '.join(ort.get_available_providers())}")
        options = ort.SessionOptions()
        options.intra_op_num_threads = num_threads or os.cpu_count() or 1
        options.inter_op_num_threads = 1
        try:
            self.session = ort.InferenceSession(str(path), options, providers=list(providers))
        except Exception as error:  # the library's own exceptions share no class
            raise Problem(f"{path}: cannot be loaded by onnxruntime ({str(error).splitlines()[0]})") from error

    def call(self, x_t: Any, logsnr: Any, x_0_prev: Any, known: Any, temperature: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return (x_0_hat, logits); float32 arrays, `known` bool."""
        feed = {"x_t": x_t, "logsnr": logsnr, "x_0_prev": x_0_prev, "known": known, "temperature": temperature}
        x_0_hat, logits = self.session.run(["x_0_hat", "logits"], feed)
        return x_0_hat, logits


class OnnxNetwork:
    """A graph, its embeddings, a source of noise and a temperature, as `sampler.walk` wants them."""

    def __init__(
        self, session: Session, embedding: np.ndarray, noise: Callable[[], np.ndarray], num_rows: int, temperature: float = 1.0
    ) -> None:
        self.session, self.embedding, self.noise = session, embedding, noise
        self.heat = np.full(num_rows, temperature, np.float32)

    def clean(self, given: Given) -> tuple[np.ndarray, np.ndarray]:
        known = given.known[..., None].astype(np.float32)
        return self.embedding[given.ids] * known, known

    def denoise(self, x: np.ndarray, logsnr: float, x_0_prev: np.ndarray, given: Given) -> tuple[np.ndarray, np.ndarray]:
        return self.session.call(x, np.full_like(self.heat, logsnr), x_0_prev, given.known, self.heat)

    def likeliest(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        best = logits.max(axis=-1, keepdims=True)
        return 1 / np.exp(logits - best).sum(axis=-1), logits.argmax(axis=-1)
