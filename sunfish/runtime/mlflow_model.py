"""An exported folder as an MLflow model: texts in, texts out. MLflow reads this file as the model's code;
nothing is pickled.

A text with gaps, `[MASK]` or `[MASK:n]`, comes back filled; any other text is carried on; an empty one
becomes a new text."""

from __future__ import annotations

from typing import Any

import mlflow

from sunfish.runtime.generator import Sampler
from sunfish.runtime.settings import Settings


class Served(mlflow.pyfunc.PythonModel):  # type: ignore[name-defined]
    """What `mlflow models serve` answers with; `params` are those of `Settings`."""

    def load_context(self, context: Any) -> None:
        self.sampler = Sampler.load(context.artifacts["folder"])

    # hints would replace the signature, and its params
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        settings = Settings(**(params or {}))
        return [self._answer(text, settings) for text in model_input.iloc[:, 0]]

    def _answer(self, text: str, settings: Settings) -> str:
        if "[MASK" in text:
            return self.sampler.infill(text, settings=settings)[0]
        return self.sampler.generate(prompt=text or None, settings=settings)[0]


mlflow.models.set_model(Served())
