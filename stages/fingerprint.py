"""data -> a small JSON file of what its paths name now, which sharding depends on."""

from __future__ import annotations

import argparse
from pathlib import Path

from sunfish.config.compose import read_section
from sunfish.errors import report_errors
from sunfish.files import write_json


@report_errors
def main() -> None:
    """Write the names, sizes and times of the local documents and the digest of a local tokenizer."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    section = read_section(arguments.params, "data")

    from sunfish.sharding.fingerprint import fingerprint

    write_json(arguments.out, fingerprint(section))


if __name__ == "__main__":
    main()
