"""What an evaluation found of each sampler, for the exported folder to say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sunfish.errors import UserError
from sunfish.files import read_json

NAME = re.compile(r"(?P<sampler>.+?)-(?P<steps>\d+)(?P<check>-checked)?")  # as the evaluation names samplers
TABLES = ("samplers", "plain_by_steps", "checked_by_steps")
SHARES = {"consistent": "stories_consistent", "valid": "sentences_valid"}


def read_measured(path: Path, model_sha256: str) -> list[dict[str, Any]]:
    """Return sampler, steps, check and the shares of consistent texts and valid sentences, a row a sampler.

    Samplers that keep tokens early are left out. Without a grammar the shares are null.

    Raises:
        UserError: the results are of another model.
    """
    results = read_json(path)
    if results["about"]["model_sha256"] != model_sha256:
        raise UserError(f"{path}: was measured of another model; run `dvc repro evaluate` first")
    found = {name: row for table in TABLES for name, row in results[table].items()}
    matches = [(NAME.fullmatch(name), row) for name, row in sorted(found.items())]
    return [
        {"sampler": match["sampler"], "steps": int(match["steps"]), "check": match["check"] is not None}
        | {share: row.get(key) for share, key in SHARES.items()}
        for match, row in matches
        if match is not None
    ]
