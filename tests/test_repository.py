"""What the repository itself has to keep: short files, a true README, figures of committed files."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.builders import ROOT

FOLDERS = ("sunfish", "stages", "pipelines", "benchmarks")
CODE = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]


def test_files_are_short() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in [*CODE, *(ROOT / "tests").rglob("*.py")]}
    assert all(lines[path] <= 65 for path in CODE if path.parent.name == "stages")
    assert [path for path in lines if lines[path] > 250] == []


def test_the_readme_s_tree_is_the_tree() -> None:
    tree = (ROOT / "README.md").read_text().split("## The tree")[1]
    named = set(re.findall(r"(\w+\.py)\b", tree))
    there = {
        p.name
        for folder in ("sunfish", "stages")
        for p in (ROOT / folder).rglob("*.py")
        if p.name != "__init__.py"
    }
    assert named == there


def committed(name: str) -> str:
    """A file as git holds it: a run of one's own writes other figures over the committed ones, and is no
    reason to fail.
    """
    done = subprocess.run(["git", "show", f":{name}"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FileNotFoundError(name)
    return done.stdout


@pytest.mark.parametrize("name", ["README.md", "docs/RESULTS.md", "docs/FINETUNING.md"])
def test_printed_numbers_are_the_committed_files(name: str) -> None:
    from benchmarks.results_page import pages

    assert pages(committed)[name] == committed(name), "run `python -m benchmarks.results_page`"


def test_nothing_unpickles() -> None:
    for path in CODE:
        assert not re.search(r"torch\.load|pickle\.|allow_pickle=True|joblib", path.read_text()), path


@pytest.mark.parametrize("path", sorted(ROOT.glob(".github/workflows/*.yml")), ids=lambda path: path.stem)
def test_actions_are_pinned_to_commits_and_may_only_what_they_must(path: Path) -> None:
    uses = re.findall(r"uses: \S+?@(\S+)", path.read_text())
    assert uses and all(re.fullmatch(r"[0-9a-f]{40}", commit) for commit in uses)
    assert yaml.safe_load(path.read_text())["permissions"]["contents"] == "read"
