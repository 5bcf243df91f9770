"""Which files of this project a stage reaches by import; `python -m tests.dependencies` renews dvc.yaml.

Folders are listed by hand, where every file of a package concerns the stage. All else stands file by file.
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parent.parent
# compose.py asks the registries what a section may hold; only the stages that read it depend on the answer
REGISTRIES = {"sunfish/config/compose.py": "sunfish.diffusion."}
STAGE = re.compile(r"python -m (stages\.\w+)(.*?\n( +)deps: )\[([^\]]*)\]", re.S)
OURS = ("sunfish", "stages", "pipelines", "benchmarks")


def pipelines() -> list[Path]:
    """Return every dvc.yaml of the project."""
    return [ROOT / "dvc.yaml", *sorted((ROOT / "pipelines").glob("*/dvc.yaml"))]


def reached_by(module: str) -> list[str]:
    """Return the project files behind a module, itself included, sorted."""
    seen: set[Path] = set()
    todo = [file_of(module)]
    while todo:
        path = todo.pop()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        todo += [file_of(name) for name in imported_names(path)]
    return sorted(path.relative_to(ROOT).as_posix() for path in seen)


def file_of(module: str) -> Path:
    """Return where a module would lie."""
    return ROOT / (module.replace(".", "/") + ".py")


def imported_names(path: Path) -> list[str]:
    """Return every module a file imports, at its top or inside functions, that may be of this project."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    left_out = REGISTRIES.get(path.relative_to(ROOT).as_posix(), " ")
    return [name for name in names if name.split(".")[0] in OURS and not name.startswith(left_out)]


def is_covered(path: str, deps: list[str]) -> bool:
    """Say whether a file is a dependency, or lies in a folder that is one."""
    return any(path == dep or path.startswith(f"{dep}/") for dep in deps)


def with_dependencies(text: str) -> str:
    """Return a pipeline whose stages depend on their data as before, and on the code that they reach."""

    def renew(found: re.Match[str]) -> str:
        module, between, indent, old = found.groups()
        kept = [name for name in re.split(r"[,\s]+", old) if name and not name.endswith(".py")]
        files = [name for name in reached_by(module) if not is_covered(name, kept)]
        inside = " " * (len(indent) + 2)
        lines = textwrap.wrap(
            "[" + ", ".join([*kept, *files]) + "]", 110, initial_indent=inside + "    ",
            subsequent_indent=inside, break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
        return f"python -m {module}{between}" + "\n".join(lines).lstrip()

    return STAGE.sub(renew, text)


def main() -> None:
    """Renew the project's dvc.yaml."""
    path = ROOT / "dvc.yaml"
    path.write_text(with_dependencies(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
