"""The exported denoiser behind ONNX Runtime."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from sunfish.problems import Problem
from sunfish.sampler import Denoise


class Session:
    """One loaded graph; `call` is the denoiser, `denoise` the callable that `sampler.walk` wants."""

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

    def denoise(self, known: np.ndarray, temperature: float) -> Denoise:
        """Return (x, logsnr, x_0_prev) -> (x_0_hat, logits) for a batch with these known positions."""
        batch = len(known)
        heat = np.full(batch, temperature, np.float32)

        def denoise(x: np.ndarray, logsnr: float, x_0_prev: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return self.call(x, np.full(batch, logsnr, np.float32), x_0_prev, known, heat)

        return denoise
