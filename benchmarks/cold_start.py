"""From nothing to the first text: `sunfish generate` in a fresh process, its seconds and memory; and the runtime layer's size on disk.

python -m benchmarks.cold_start models/onnx
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.record import record, spread

RUNS = 9
SCRIPT = """
import sys
from sunfish.cli import main
main(["generate", *sys.argv[1:]], standalone_mode=False)
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


def installed_mib(project: Path) -> float:
    """Install the runtime layer alone into a fresh environment, as the Dockerfile does, and return what it takes; pip is not counted."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        before = size_of(Path(folder))
        pip = [
            f"{folder}/bin/python",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-compile",
            "--constraint",
            str(project / "requirements.lock"),
        ]
        subprocess.run([*pip, str(project)], check=True, stderr=subprocess.DEVNULL)
        return (size_of(Path(folder)) - before) / 2**20


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    for precision in ("fp32", "int8"):
        seconds, kib = [], 0
        for _ in range(RUNS):
            started = time.perf_counter()
            command = [sys.executable, "-c", SCRIPT, "--model", str(arguments.folder), "--precision", precision]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            seconds.append(time.perf_counter() - started)
            kib = max(kib, int(done.stdout.split()[-1]))
        record("cold start to one text", precision=precision, seconds=spread(seconds), peak_mib=kib // 1024)
    record("runtime layer, installed", mib=round(installed_mib(Path(__file__).parent.parent)))


if __name__ == "__main__":
    main()
