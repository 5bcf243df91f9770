"""An exported folder as an MLflow model, texts in, texts out; this file is the model's code.

A text with gaps, `[MASK]` or `[MASK:n]`, comes back filled; any other text is carried on, or, by a model that
takes instructions, answered; an empty one becomes a new text. A text that cannot be answered comes back as
`error: ...`, and the others are answered."""

from typing import Any

import mlflow
import pandas as pd

from sunfish.errors import UserError
from sunfish.runtime.generator import Sampler
from sunfish.runtime.prompts import has_gaps
from sunfish.runtime.settings import Settings


class Served(mlflow.pyfunc.PythonModel):  # type: ignore[name-defined]
    """What `mlflow models serve` answers with; `params` are those of `Settings`."""

    def load_context(self, context: Any) -> None:
        self.sampler = Sampler.load(context.artifacts["folder"], num_threads=1)  # requests run side by side

    # MLflow warns of `Any`
    def predict(self, context, model_input: pd.DataFrame, params=None) -> list[str]:  # type: ignore
        settings = Settings(**(params or {}))
        return [self._answer(text, settings) for text in model_input.iloc[:, 0]]

    def _answer(self, text: object, settings: Settings) -> str:
        try:
            if not isinstance(text, str):
                raise UserError(f"{text!r:.40} is no text")
            if has_gaps(text):
                return str(self.sampler.infill(text, settings=settings)[0])
            given: dict[str, Any] = {"instruction" if self.sampler.config.answers else "prompt": text or None}
            return str(self.sampler.generate(settings=settings, **given)[0])
        except UserError as problem:
            return f"error: {problem}"


mlflow.models.set_model(Served())
