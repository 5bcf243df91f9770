"""Which files of this project a stage reaches by import; `python -m tests.dependencies` writes them into dvc.yaml."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


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
    """Return every module a file imports, at its top or inside functions, that may be a file of this project."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.split(".")[0] in ("sunfish", "stages")]


def main() -> None:
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    for stage in re.findall(r"python -m stages\.(\w+)", text):
        code = reached_by(f"stages.{stage}")
        pattern = re.compile(rf"(  {stage}:\n    cmd:.*?\n    deps:)( \[[^\]]*\]|(?:\n      - [^\n]+)+)", re.S)
        found = pattern.search(text)
        assert found, stage
        old = re.findall(r"[\w./-]+", found[2].replace("\n      - ", "\n"))
        data = [d for d in old if not d.endswith(".py") and d != "-"]
        text = text[: found.start(2)] + "".join(f"\n      - {d}" for d in [*data, *code]) + text[found.end(2) :]
    (ROOT / "dvc.yaml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
