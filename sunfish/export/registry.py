"""A new version in MLflow's model registry: what it answers, its numbers, its aliases."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types.schema import ColSpec, ParamSchema, ParamSpec, Schema

from sunfish.mlflow_store import Store, now, say

QUALITY = "export.fp32.nats_per_token"  # the bound on held-out text; lower is better
HEADLINE = (QUALITY, "evaluate.bound.", "evaluate.causal.", "evaluate.headline.", "evaluate.draft.")
DATA = "shards_sha256"


@dataclass(frozen=True)
class Version:
    """What is registered: `script` is the model's code, `package` the folder of the package that it needs.

    `params` are MLflow's type and the usual value of each setting; None leaves it to the model."""

    name: str
    script: Path
    package: Path
    folder: Path
    params: dict[str, tuple[str, Any]]
    about: str


def register_version(store: Store, new: Version) -> str:
    """Register an exported folder as a model that takes and gives texts; return the version.

    `newest` moves to it, `champion` if it is the best on its data."""
    texts = Schema([ColSpec("string")])
    params = ParamSchema([ParamSpec(name, *spec) for name, spec in new.params.items()])
    mlflow.set_tracking_uri(store.uri)
    with mlflow.start_run(run_id=store.run_id):
        model = mlflow.pyfunc.log_model(
            name=new.name, python_model=str(new.script), artifacts={"folder": str(new.folder)},
            code_paths=[str(new.package)], input_example=(["[MASK]"], {"seed": 0}),
            signature=ModelSignature(texts, texts, params),
            pip_requirements=["mlflow", *runtime_requirements()],
        )  # fmt: skip
    number = create_version(store, new.name, model.model_id)
    describe(store, new, number, model.model_id)
    store.client.set_registered_model_alias(new.name, "newest", number)
    if is_champion(store, new.name, number):
        store.client.set_registered_model_alias(new.name, "champion", number)
    return number


def create_version(store: Store, name: str, model_id: str) -> str:
    """Make a version of a logged model, as `mlflow.register_model` does, and print nothing."""
    try:
        store.client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"models:/{model_id}"
    made = store.client.create_model_version(name, source, store.run_id, model_id=model_id)
    versions = json.dumps([{"name": name, "version": made.version}])
    store.client.set_logged_model_tags(model_id, {"mlflow.modelVersions": versions})
    return str(made.version)


def describe(store: Store, new: Version, number: str, model_id: str) -> None:
    """Give a version its description, and the run's headline numbers as metrics and tags."""
    metrics = {key: value for key, value in store.metrics().items() if key.startswith(HEADLINE)}
    store.log_metrics([(key, value, now(), 0) for key, value in metrics.items()], model_id)
    quality = f"{metrics[QUALITY]:.4f}" if QUALITY in metrics else "unknown"
    about = f"{new.about} Champion is the lowest {QUALITY} on the same data; here {quality}."
    store.client.update_model_version(new.name, number, about)
    tags = {key: f"{value:.6g}" for key, value in metrics.items()} | {DATA: store.tags().get(DATA, "")}
    for key, value in tags.items():
        store.client.set_model_version_tag(new.name, number, key, value)


def is_champion(store: Store, name: str, number: str) -> bool:
    """Say whether a version is better than the champion, or the first.

    Numbers of other data do not compare: the champion stays until its alias is taken away."""
    best = store.client.get_registered_model(name).aliases.get("champion")
    challenger = store.client.get_model_version(name, number).tags
    if best is None:
        return QUALITY in challenger
    champion = store.client.get_model_version(name, str(best)).tags
    if champion.get(DATA) != challenger.get(DATA):
        move = f"MlflowClient().set_registered_model_alias({name!r}, 'champion', {number!r})"
        say(f"the champion, version {best}, was measured on other data and stays; `{move}` replaces it")
        return False
    return float(challenger.get(QUALITY, "inf")) < float(champion.get(QUALITY, "inf"))


def runtime_requirements() -> list[str]:
    """Return the packages that sampling an exported folder needs, at the versions installed here."""
    lines = [line for line in requires("sunfish-diffusion") or [] if "extra ==" not in line]
    names = [re.split(r"[><=! ;\[]", line)[0] for line in lines]
    return [f"{name}=={version(name)}" for name in names]
