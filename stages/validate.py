"""shards + configuration -> the CPU gate's verdict."""

from __future__ import annotations

import argparse
from pathlib import Path

from sunfish.config.compose import read_section
from sunfish.errors import UserError, report_errors
from sunfish.files import write_json


@report_errors
def main() -> None:
    """Check on the CPU, on the real shards, that the configured model can be trained and sampled."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the verdict")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file of values and timings")
    arguments = parser.parse_args()
    data = read_section(arguments.params, "data")
    model = read_section(arguments.params, "model")
    diffusion = read_section(arguments.params, "diffusion")
    pretrain = read_section(arguments.params, "pretrain")
    bounds = read_section(arguments.params, "validate")

    from sunfish.text.shards import Shards
    from sunfish.training import (
        gate as gates,
    )  # torch is loaded only once the parameters are known to be good

    shards = Shards(arguments.shards)
    shards.verify()
    gate = gates.open_gate(shards, data, model, diffusion, pretrain, bounds)
    if gate.scaled:
        print(f"for this gate: {gate.scaled}")
    checks = gates.run_checks(gate)
    print(gates.table(checks))
    write_json(
        arguments.metrics, {c.name: {"seconds": round(c.seconds, 2), "value": c.value} for c in checks}
    )
    if not all(c.passed for c in checks):
        raise UserError("the gate stays shut: mend what FAILED says before training")
    write_json(arguments.out, gates.verdict(gate, checks))


if __name__ == "__main__":
    main()
