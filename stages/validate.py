"""shards + configuration -> the CPU gate's verdict."""

from __future__ import annotations

import argparse
from pathlib import Path

from sunfish.config.compose import read_section
from sunfish.errors import UserError, report_errors
from sunfish.files import write_json

SECTIONS = ("data", "model", "schedule", "diffusion", "pretrain", "validate")


@report_errors
def main() -> None:
    """Check on the CPU, on the real shards, that the configured model can be trained and sampled."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the verdict")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file of values and timings")
    arguments = parser.parse_args()
    params = {name: read_section(arguments.params, name) for name in SECTIONS}

    # torch is loaded only once the parameters are known to be good
    from sunfish.preflight import checks as preflight
    from sunfish.preflight.gate import open_gate
    from sunfish.text.shards import Shards
    from sunfish.training.train_step import Recipe

    shards = Shards(arguments.shards)
    shards.verify()
    recipe = Recipe(*(params[name] for name in ("model", "schedule", "diffusion", "pretrain")))
    gate = open_gate(shards, params["data"], recipe, params["validate"])
    if gate.scaled:
        print(f"for this gate: {gate.scaled}")
    checks = preflight.run_checks(gate)
    print(preflight.table(checks))
    metrics = {c.name: {"seconds": round(c.seconds, 2), "value": c.value} for c in checks}
    write_json(arguments.metrics, metrics)
    if not all(c.passed for c in checks):
        raise UserError("the gate stays shut: mend what FAILED says before training")
    write_json(arguments.out, preflight.verdict(gate, checks))


if __name__ == "__main__":
    main()
