"""documents -> data/shards: tokenizer, token shards, manifest, and a look at the data."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from sunfish.config.compose import check, read_section
from sunfish.errors import report_errors
from sunfish.files import project_root, write_json


@report_errors
def main() -> None:
    """Tokenize the corpus and write it as shards, or carry on where an interrupted run stopped."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--out", type=Path, required=True, help="folder of shards to write")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file of what became of documents")
    parser.add_argument("--plots", type=Path, required=True, help="folder of pictures and tables")
    parser.add_argument("--report", type=Path, required=True, help="HTML page: a look at the data")
    parser.add_argument("--runs", type=Path, help="where interrupted runs are kept (default: runs/)")
    arguments = parser.parse_args()
    check(arguments.params)  # what the later stages would refuse is said before hours of sharding
    section, launch = (read_section(arguments.params, name) for name in ("data", "launch"))

    # loaded only once the parameters are known to be good
    from sunfish.sharding.data_report import write_data_report
    from sunfish.sharding.shard import shard
    from sunfish.text.shards import Shards

    result = shard(section, launch.sharding, arguments.out, arguments.runs or project_root() / "runs")
    for name, split in result.manifest["splits"].items():
        counts = ", ".join(f"{split[key]:,} {key}" for key in ("documents", "tokens", "bytes"))
        print(f"{arguments.out}: {name}: {counts} of text")
    write_data_report(arguments.report, arguments.plots, section, result, Shards(arguments.out))
    metrics = {"sources": result.manifest["sources"], "tokenizer": result.fidelity._asdict()}
    write_json(arguments.metrics, {"seconds": round(result.seconds, 2)} | metrics)
    shutil.rmtree(result.work.folder)


if __name__ == "__main__":
    main()
