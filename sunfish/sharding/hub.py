"""A dataset of the Hugging Face Hub -> the URLs of its files."""

from __future__ import annotations

from sunfish.config.schema.sources import Hub
from sunfish.documents import reason_of
from sunfish.errors import UserError
from sunfish.text.hub import go_offline_if_unreachable


def list_urls(source: Hub) -> list[str]:
    """Return a dataset's files at the revision, as its own card assigns them to configurations and splits.

    Raises:
        UserError: no such dataset, configuration, revision or split, or no network.
    """
    go_offline_if_unreachable()
    import datasets

    datasets.disable_progress_bars()
    try:
        builder = datasets.load_dataset_builder(source.name, source.config, revision=source.revision)
        files = builder.config.data_files or {}
    except Exception as error:  # connection, DNS, proxy, what is missing: many classes, one meaning
        raise UserError(
            f"{source.name} ({source.config}, revision {source.revision}) cannot be streamed: "
            f"{reason_of(error)}. Without a network, data=stories (the embedded corpus) and data=files with "
            "data.sources.files.paths=[...] run"
        ) from error
    if source.split not in files:
        there = ", ".join(map(str, files))
        raise UserError(f"{source.name} ({source.config}): has no split {source.split!r}; there are {there}")
    return [str(path) for path in files[source.split]]
