"""Models are registered in MLflow: the best version is the champion, and it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.mlflow_store import client_of, config_of, track

pytest_plugins = ["tests.mlflow_store"]

MLFLOWS_OWN = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")  # as it is loaded
ECHO = """
import mlflow
import pandas as pd


class Echo(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input: pd.DataFrame, params=None) -> list[str]:
        return list(model_input.iloc[:, 0])


mlflow.models.set_model(Echo())
"""


@pytest.mark.slow
@MLFLOWS_OWN
def test_best_version_is_champion(project: Path, capfd: Any) -> None:
    from sunfish.export.registry import QUALITY, Version, register_version

    (project / "echo.py").write_text(ECHO)
    (project / "folder").mkdir()
    (project / "folder" / "manifest.json").write_text("{}")
    new = Version(
        "sunfish",
        project / "echo.py",
        project / "folder",
        project / "folder",
        {"seed": ("long", None)},
        "Small.",
    )
    aliases, heard = [], []
    for quality, data in ((2.0, "a"), (1.0, "a"), (3.0, "a"), (0.5, "b")):
        track(
            lambda t, data=data: t.set_tags({"shards_sha256": data}),
            lambda t, quality=quality: t.log_metrics({QUALITY: quality}),
            lambda t: t.send(),
            lambda t: t.call("the registered model", lambda store: register_version(store, new)),
            fingerprint=f"{quality}",
        )
        aliases.append(client_of(project).get_registered_model("sunfish").aliases)
        heard.append("".join(capfd.readouterr()))
    assert ["measured on other data" in text for text in heard] == [False, False, False, True]
    assert not any("Successfully registered" in text or "Created version" in text for text in heard)
    assert [str(found["newest"]) for found in aliases] == ["1", "2", "3", "4"]
    assert [str(found["champion"]) for found in aliases] == ["1", "2", "2", "2"]
    version = client_of(project).get_model_version("sunfish", "2")
    assert version.description.startswith("Small. Champion is") and version.tags[QUALITY] == "1"
    model = client_of(project).get_logged_model(version.source.rpartition("/")[2])
    assert {(metric.key, metric.value) for metric in model.metrics} == {(QUALITY, 1.0)}


@pytest.mark.slow
@MLFLOWS_OWN
def test_exported_folder_is_registered_and_answers(exported: Path, project: Path, capfd: Any) -> None:
    import mlflow

    from sunfish.export.register import register
    from sunfish.runtime.settings import Settings

    register(exported, config_of(), Settings)
    err = capfd.readouterr().err
    assert "Warning" not in err and "tracking:" not in err and "seed" not in err
    mlflow.set_tracking_uri(f"sqlite:///{project / 'mlflow.db'}")
    model = mlflow.pyfunc.load_model("models:/sunfish@champion")
    (text,) = model.predict(["the dog [MASK] ."], params={"seed": 1})
    assert text.startswith("the dog ") and "[MASK]" not in text
    assert "export.fp32.nats_per_token" in client_of(project).get_model_version("sunfish", "1").tags
