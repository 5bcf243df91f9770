"""A continuous diffusion language model: `from sunfish import Sampler, Settings`."""

from importlib import import_module
from typing import Any

PLACES = {"Sampler": "sunfish.runtime.generator", "Settings": "sunfish.runtime.settings"}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for: most modules of the package need neither."""
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PLACES[name]), name)
