"""pyproject.toml -> locks/: every package exact, with the digests of its files; needs `pip install uv`.

`python -m tests.locks` keeps the versions that are locked now, `--upgrade` takes the newest. A file holds
what the ones before it do not. torch's CPU builds have a lock of their own, written by hand.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOCKS = ROOT / "locks"
CUDA = re.compile(r"(torch|triton|nvidia-[\w-]+|cuda-[\w-]+)==")
LAYERS = {"runtime": (), "train": ("train",), "dev": ("train", "dev")}
HEAD = "# Made by `python -m tests.locks`: {}.\n"
HOLDS = {
    "runtime": "what sampling an exported model needs",
    "torch-cuda": "torch as the package index has it; on Linux with CUDA",
    "train": "what the pipeline needs on top of runtime.lock and one of torch-*.lock",
    "dev": "what tests and checks need on top of train.lock",
}


def entries(path: Path) -> dict[str, str]:
    """Return a lock's packages with their lines."""
    parts = re.split(r"\n(?=[^\s#])", "\n" + path.read_text(encoding="utf-8"))[1:]
    return {part.split("==")[0]: part.strip() + "\n" for part in parts}


def resolve(extras: tuple[str, ...], pins: Path, out: Path) -> dict[str, str]:
    """Return all packages of some extras, by any platform and Python, as uv finds them."""
    command = ["uv", "pip", "compile", "pyproject.toml", "--universal", "--python-version", "3.11", "--quiet"]
    command += ["--generate-hashes", "--no-annotate", "--no-header", "--constraint", str(pins)]
    chosen = [word for extra in extras for word in ("--extra", extra)]
    subprocess.run([*command, *chosen, "--output-file", str(out)], cwd=ROOT, check=True)
    found = entries(out)
    out.unlink()
    return found


def layers(pins: Path) -> dict[str, dict[str, str]]:
    """Return the packages of each file, each package in the first that needs it."""
    found = {name: resolve(extras, pins, LOCKS / "new") for name, extras in LAYERS.items()}
    everything, given, files = found["dev"], set[str](), {}
    for name, packages in found.items():
        files[name] = {each: everything[each] for each in packages if each not in given}
        given |= set(packages)
    train = files["train"]
    files["torch-cuda"] = {name: train.pop(name) for name in list(train) if CUDA.match(train[name])}
    return files


def main() -> None:
    """Write all locks but the one of torch's CPU builds."""
    now = [line for name in HOLDS if (LOCKS / f"{name}.lock").exists() for line in
           (LOCKS / f"{name}.lock").read_text().splitlines() if re.match(r"[^\s#]+==", line)]  # fmt: skip
    pins = LOCKS / "pins"
    pins.write_text("" if "--upgrade" in sys.argv else "".join(f"{line.split()[0]}\n" for line in now))
    for name, packages in layers(pins).items():
        (LOCKS / f"{name}.lock").write_text(HEAD.format(HOLDS[name]) + "".join(packages.values()))
    pins.unlink()


if __name__ == "__main__":
    main()
