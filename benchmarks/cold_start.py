"""From nothing to the first text: `sunfish generate` in a fresh process, its seconds and memory; and the
runtime layer's size on disk.

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

RUNS, PROJECT = 9, Path(__file__).parent.parent
SCRIPT = """
import sys
from sunfish.runtime.cli import main
main(["generate", *sys.argv[1:]], standalone_mode=False)
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


def installed_mib(folder: Path) -> float:
    """Install the runtime layer alone into a fresh environment, as the Dockerfile does, run the README's
    script there, and return the size.

    What pip itself takes is not counted.
    """
    script = (PROJECT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    with tempfile.TemporaryDirectory() as place:
        subprocess.run([sys.executable, "-m", "venv", f"{place}/venv"], check=True)
        before, python = size_of(Path(place)), f"{place}/venv/bin/python"
        install = [
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-compile",
            "--no-deps",
        ]
        locked = ["--require-hashes", "--requirement", str(PROJECT / "locks" / "runtime.lock")]
        for what in (locked, [str(PROJECT)]):
            subprocess.run([python, *install, *what], check=True, stderr=subprocess.DEVNULL)
        size = size_of(Path(place)) - before
        (Path(place) / "models").mkdir()
        (Path(place) / "models" / "onnx").symlink_to(folder.resolve())
        subprocess.run([python, "-c", script], check=True, cwd=place, stdout=subprocess.DEVNULL)
        if not subprocess.run(
            [python, "-c", "import torch"], check=False, stderr=subprocess.DEVNULL
        ).returncode:
            raise SystemExit("the runtime layer brings torch")
    return size / 2**20


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    for precision in ("fp32", "int8"):
        seconds, kib = [], 0
        for _ in range(RUNS):
            started = time.perf_counter()
            command = [
                sys.executable,
                "-c",
                SCRIPT,
                "--model",
                str(arguments.folder),
                "--precision",
                precision,
            ]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            seconds.append(time.perf_counter() - started)
            kib = max(kib, int(done.stdout.split()[-1]))
        record("cold start to one text", precision=precision, seconds=spread(seconds), peak_mib=kib // 1024)
    record(
        "runtime layer, installed; the README's script ran in it", mib=round(installed_mib(arguments.folder))
    )


if __name__ == "__main__":
    main()
