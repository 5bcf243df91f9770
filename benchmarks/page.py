"""The page's figures: how many texts have the runtime's ids, how fast it writes, how much it weighs.

python -m benchmarks.page [FOLDER ...]

Needs what `make page` and tests/test_page.py need. Writes results/benchmarks/page.json: of each folder the
most exact precision that it holds."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from sunfish.files import write_json
from sunfish.runtime.folder import choose_precision
from sunfish.runtime.generator import Sampler
from sunfish.runtime.serve import PAGE, page_server
from tests.page_fixtures import GAPS, text
from tests.test_page import CHROMIUM, npx

SEEDS, GAP_SEEDS = 100, 25  # of each of the two texts with gaps
OUT = PAGE.parents[1] / "results" / "benchmarks" / "page.json"


def agreement(folder: Path, place: Path) -> dict[str, Any]:
    """Return how many texts have the runtime's ids: plain, checked and gaps."""
    precision = choose_precision(folder, None)
    sampler = Sampler.load(folder, precision, num_threads=1, note=lambda note: None)
    texts = [text(sampler, seed, "", None, None, check) for check in (False, None) for seed in range(SEEDS)]
    texts += [text(sampler, seed, gap, None, None, None) for gap in GAPS for seed in range(GAP_SEEDS)]
    asked = {"folder": str(folder.resolve()), "precision": precision, "texts": texts}
    (place / "fixtures.json").write_text(json.dumps(asked), encoding="utf-8")
    return {"precision": precision, **measured(place)}


def speed(folder: Path, place: Path) -> dict[str, Any]:
    """Return the seconds to a first text and of a walk, and frames a second while it runs."""
    with page_server(folder, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = measured(place, SUNFISH_PAGE=f"http://127.0.0.1:{server.server_port}/")
        server.shutdown()
    return found


def measured(place: Path, **environment: str) -> dict[str, Any]:
    """Run the page's own measurement and return what it wrote."""
    places = {name: str(place / f"{name}.json") for name in ("fixtures", "measured")}
    environment |= {"SUNFISH_FIXTURES": places["fixtures"], "SUNFISH_MEASURED": places["measured"]}
    npx("vitest", "run", "tests/measure.test.ts", CHROMIUM=str(CHROMIUM), **environment)
    return dict(json.loads(Path(places["measured"]).read_text()))


def main(folders: list[Path]) -> None:
    """Measure and write."""
    megabytes = sum(path.stat().st_size for path in PAGE.rglob("*") if path.is_file()) / 1e6
    found: dict[str, Any] = {"page_megabytes": round(megabytes, 2), "date": time.strftime("%Y-%m-%d")}
    with tempfile.TemporaryDirectory() as name:
        for folder in folders:
            print(folder, file=sys.stderr)
            one = agreement(folder, Path(name))
            found[str(one.pop("precision"))] = {**one, **speed(folder, Path(name))}
    load = round(os.getloadavg()[1], 1)  # of 5 minutes: what else ran beside
    write_json(OUT, {**found, "cores": os.cpu_count(), "load": load})


if __name__ == "__main__":
    main([Path(each) for each in sys.argv[1:]] or [Path("sunfish/shipped")])
