"""What is kept of the sources, in which shares, and that a full disk leaves nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sunfish.config.compose import ConfigError, check, compose
from sunfish.config.schema.data import DataConfig
from sunfish.config.schema.filters import Length, Pattern, Range, Values
from sunfish.config.schema.sources import Stories
from sunfish.errors import UserError
from sunfish.sharding import steps
from sunfish.sharding.plan import make_plan
from tests.corpora import (
    documents_of,
    files,
    run,
    with_changes,
    with_sources,
    write_jsonl,
)

# ---- what is kept ----


def test_filters_drop_under_their_names(section: DataConfig, tmp_path: Path) -> None:
    rows = [
        {
            "text": f"a text of some length {i}" + "!" * (i % 4),
            "language": "en" if i % 2 else "fr",
            "language_score": i / 100,
            "url": f"http://x{i % 5}.org/",
        }
        for i in range(100)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rules = (
        Values(kind="values", column="language", values=("en",)),
        Range(kind="range", column="language_score", min=0.3, max=0.9),
        Pattern(kind="pattern", column="url", pattern=r"//x1\.", keep=False),
        Length(kind="length", min=5, max=25),
    )
    result = run(
        with_sources(section, files=files(tmp_path / "a.jsonl", filters=rules, url_column="url")), tmp_path
    )
    keeps = {
        "language": lambda r: r["language"] == "en",
        "language_score": lambda r: 0.3 <= r["language_score"] <= 0.9,
        "url": lambda r: "//x1." not in r["url"],
        "length": lambda r: 5 <= len(r["text"]) <= 25,
    }
    dropped_by = [next((name for name, keep in keeps.items() if not keep(row)), None) for row in rows]
    account = result.manifest["sources"]["files"]
    assert (
        account["dropped"] == {name: dropped_by.count(name) for name in keeps}
        and min(account["dropped"].values()) > 5
    )
    assert sorted(documents_of(tmp_path)) == sorted(
        row["text"] for row, by in zip(rows, dropped_by, strict=True) if by is None
    )
    assert set(result.counts["files"]["hosts"]) == {"x0.org", "x2.org", "x3.org", "x4.org"}


def test_a_filter_that_keeps_nothing_says_which(
    section: DataConfig, texts: list[str], tmp_path: Path
) -> None:
    rule = Length(kind="length", min=100_000, max=None)
    with pytest.raises(UserError, match=r"data.sources.files: no document is left. Dropped: 600 by 'length'"):
        run(
            with_sources(section, files=files(write_jsonl(tmp_path / "a.jsonl", texts), filters=(rule,))),
            tmp_path,
        )


def test_limits_take_the_first_documents_and_leave_the_rest_unread(
    section: DataConfig, texts: list[str], tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    result = run(with_sources(section, files=files(path, max_documents=70)), tmp_path)
    assert sorted(documents_of(tmp_path)) == sorted(texts[:70])
    assert (
        result.manifest["sources"]["files"]["documents_in"] < 400
    )  # tasks behind the limit count for nothing
    result = run(with_sources(section, files=files(path, max_tokens=3000)), tmp_path / "tokens")
    tokens = result.manifest["sources"]["files"]["tokens"]
    assert 3000 <= tokens < 3200


def test_duplicates_are_dropped_across_tasks(section: DataConfig, texts: list[str], tmp_path: Path) -> None:
    near = [f"{text} and then" if len(text.split()) > 30 else text for text in texts[:100]]
    path = write_jsonl(tmp_path / "a.jsonl", [*texts, *texts[100:200], *near, "hi", "hi"])
    changed = with_sources(section, files=files(path))
    assert len(make_plan(changed).tasks) > 3
    counts = {}
    for which in ("keep", "drop_exact", "drop_near"):
        result = run(with_changes(changed, duplicates=which), tmp_path / which)
        counts[which] = result.manifest["sources"]["files"]
    num_changed = sum(a != b for a, b in zip(near, texts[:100], strict=True))
    assert counts["keep"]["documents"] == 802 and num_changed > 30
    assert counts["drop_exact"]["dropped"] == {"exact_duplicate": 201 - num_changed}
    kept = documents_of(tmp_path / "drop_exact")
    assert sorted(kept) == sorted({*texts, *near, "hi"})
    kept = documents_of(tmp_path / "drop_near")
    assert len(kept) == len(set(kept)) and len(kept) < counts["drop_exact"]["documents"] - 0.8 * num_changed
    assert (
        len(set(texts) - set(kept)) < num_changed
    )  # of each cluster one is kept, so of a text and its double never neither
    assert all(text in kept or f"{text} and then" in kept for text in texts)


def test_a_mixture_has_its_shares_anywhere_and_repeats_nothing(
    section: DataConfig, texts: list[str], tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    stories = Stories(kind="stories", grammar="short", num_documents=2000, seed=1, weight=1.0)
    changed = with_sources(section, web=files(path, weight=3.0), stories=stories)
    result = run(changed, tmp_path)
    tokens = {name: account["tokens"] for name, account in result.manifest["sources"].items()}
    assert abs(tokens["web"] / sum(tokens.values()) - 0.75) < 0.01
    assert result.manifest["sources"]["stories"]["dropped"]["beyond its share"] > 0
    train = documents_of(tmp_path, "train")
    assert len(set(train)) > 0.99 * len(train)
    known = set(texts)
    is_web = np.array([text in known for text in train])
    sizes = np.array([len(text) for text in train])
    quarter = len(train) // 4
    shares = [
        float(sizes[a : a + quarter][is_web[a : a + quarter]].sum() / sizes[a : a + quarter].sum())
        for a in range(0, 3 * quarter, quarter)
    ]
    assert max(shares) - min(shares) < 0.1
    again = with_changes(changed, mixing_seed=1)
    run(again, tmp_path / "seed")
    assert documents_of(tmp_path / "seed", "train") != train and sorted(
        documents_of(tmp_path / "seed")
    ) == sorted(documents_of(tmp_path))


def test_weights_are_of_all_sources_or_none_and_names_are_given_once(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    one = "+data.sources.b={kind: stories, grammar: long, num_documents: 3, seed: 1, weight: 2}"
    with pytest.raises(ConfigError, match="must all have a weight, or none of them"):
        compose([one], params)
    compose([one, "data.sources.stories.weight=1"], params)
    text = params.read_text()
    params.write_text(text.replace("    b:\n", "    stories:\n"))
    with pytest.raises(ConfigError, match="duplicate key stories"):
        check(params)


# ---- room ----


def test_a_full_disk_is_said_and_nothing_is_half_written(
    section: DataConfig, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sunfish.sharding.pieces import PieceWriter

    def full(self: PieceWriter, *_: object) -> None:
        raise OSError(28, "No space left on device")

    path = write_jsonl(tmp_path / "a.jsonl", texts)
    with monkeypatch.context() as patch:
        patch.setattr(PieceWriter, "append", full)
        with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
            run(with_sources(section, files=files(path)), tmp_path)
    assert not (tmp_path / "shards").exists()
    assert not [p for p in (tmp_path / "runs").rglob("*") if p.name.endswith((".tmp", ".bin"))]
    run(with_sources(section, files=files(path)), tmp_path)
    assert len(documents_of(tmp_path)) == 600


def test_the_split_follows_the_document() -> None:
    places = {f"document {i}": steps.place_of(f"document {i}".encode()) for i in range(5000)}
    held = [text for text, place in places.items() if place < 0.1 * steps.HOLD_OUT_SPAN]
    assert 400 < len(held) < 600 and steps.place_of(b"document 7") == places["document 7"]
