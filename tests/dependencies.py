"""Which files of this project a stage reaches by import; `python -m tests.dependencies` writes them into
every pipeline.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PIPELINES = ("dvc.yaml", "distill/dvc.yaml", "pipelines/baselines/dvc.yaml")
STAGE = re.compile(r"python -m ([\w.]+)(.*?\n( +)deps:)((?:\n\3  - [^\n]+)+)", re.S)


def reached_by(module: str) -> list[str]:
    """Return the project files behind a module, itself included, sorted."""
    seen: set[Path] = set()
    todo = [ROOT / (module.replace(".", "/") + ".py")]
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in imported_names(path):
            candidate = ROOT / (name.replace(".", "/") + ".py")
            if candidate.is_file():
                todo.append(candidate)
    return sorted(str(path.relative_to(ROOT)) for path in seen)


def imported_names(path: Path) -> list[str]:
    """Return every module a file imports, at its top or inside functions, that may be a file of this
    project.
    """
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.split(".")[0] in ("sunfish", "stages", "benchmarks")]


def with_dependencies(text: str) -> str:
    """Return a pipeline whose stages depend on their data as before, and on exactly the project files that
    they reach.
    """

    def renew(found: re.Match[str]) -> str:
        module, between, indent, old = found.groups()
        data = [line for line in old.split(f"\n{indent}  - ")[1:] if not line.endswith(".py")]
        return f"python -m {module}{between}" + "".join(
            f"\n{indent}  - {name}" for name in [*data, *reached_by(module)]
        )

    return STAGE.sub(renew, text)


def main() -> None:
    for name in PIPELINES:
        path = ROOT / name
        path.write_text(with_dependencies(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
