from __future__ import annotations

import dataclasses
import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from sunfish.config.schema.data import DataConfig
from sunfish.config.schema.sources import StoryTasks, Tasks
from sunfish.errors import UserError
from sunfish.files import read_json
from sunfish.text.batches import RowDataset
from sunfish.text.layouts import instruction_mask
from sunfish.text.shards import Shards
from sunfish.text.stories import judge
from sunfish.text.tasks import CONSTRAINTS, constraints_of, judge_task, write_tasks
from sunfish.text.tokenizer import instruction_ids
from tests.builders import make_shards

PAIRS = [(f"tell of number {k} , please", f"number {k} came . it went .") for k in range(60)]
ALL_KINDS = list(islice(write_tasks(5), 400))


def task_section(params: dict, source: Any, **changes: Any) -> dict[str, Any]:
    section: DataConfig = dataclasses.replace(
        params["data"], sources={"tasks": source}, rows="tasks", row_length=128, held_out_share=0.2, **changes
    )
    return params | {"data": section}


def files_of(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> Tasks:
    path = folder / "tasks.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Tasks(
        kind="tasks", paths=(str(path),), instruction_column="instruction", text_column="response",
        url_column=None, separator=None, filters=(), unreadable="fatal", max_documents=None, max_tokens=None,
        weight=None,
    )  # fmt: skip
    return dataclasses.replace(source, **changes)


def pairs_of(shards: Shards, section: DataConfig) -> set[tuple[str, str]]:
    found = set()
    for split in ("train", "heldout"):
        rows = RowDataset(shards, split, section)
        ids = rows.read(np.arange(len(rows)))
        mask = instruction_mask(ids, shards.end_id)
        for row, given in zip(ids, mask, strict=True):
            pair = shards.tokenizer.decode(row[given][:-1]), shards.tokenizer.decode_row(row[~given].tolist())
            found.add(pair)
    return found


def test_a_task_s_story_meets_it_and_is_the_grammar_s() -> None:
    for instruction, story in ALL_KINDS:
        assert all(judge_task(instruction, story).values()) and judge(story).consistent
    assert {kind for instruction, _ in ALL_KINDS for kind in constraints_of(instruction)} == set(CONSTRAINTS)


@pytest.mark.parametrize("kind", list(CONSTRAINTS))
def test_another_story_fails_a_constraint(kind: str) -> None:
    asked = [(each, k) for k, (each, _) in enumerate(ALL_KINDS) if kind in constraints_of(each)]
    met = [judge_task(each, ALL_KINDS[k - 1][1])[kind] for each, k in asked]
    assert not all(met)


def test_the_oracle_reads_no_other_instruction() -> None:
    with pytest.raises(ValueError, match="no story task"):
        constraints_of("write a poem")


@pytest.mark.parametrize("form", ["columns", "messages", "parquet"])
def test_pairs_are_read_sharded_and_laid_out_in_rows(form: str, params: dict, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"instruction": asked, "response": said} for asked, said in PAIRS]
    changes: dict[str, Any] = {}
    if form == "messages":
        roles = "user", "assistant"
        turns = [[dict(role=r, content=c) for r, c in zip(roles, pair, strict=True)] for pair in PAIRS]
        rows = [{"messages": each} for each in turns]
        changes = {"instruction_column": None, "text_column": "messages"}
    if form == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "tasks.parquet")
        changes = {"paths": (str(tmp_path / "tasks.parquet"),)}
    changed = task_section(params, files_of(tmp_path, rows, **changes))
    make_shards(changed, tmp_path / "shards")
    assert pairs_of(Shards(tmp_path / "shards"), changed["data"]) == set(PAIRS)


def test_transformers_chat_template_gives_the_same_ids(params: dict, tmp_path: Path) -> None:
    source = StoryTasks(kind="story_tasks", grammar="short", num_documents=60, seed=3, weight=None)
    changed = task_section(params, source)
    make_shards(changed, tmp_path / "shards")
    shards = Shards(tmp_path / "shards")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "shards")
    for instruction, story in islice(write_tasks(3), 5):
        turns = [dict(role="user", content=instruction), dict(role="assistant", content=story)]
        asked = instruction_ids(shards.tokenizer, instruction)
        assert theirs.apply_chat_template(turns[:1], return_dict=False) == asked
        whole = [*asked, *shards.tokenizer.encode(story), shards.end_id]
        assert theirs.apply_chat_template(turns, return_dict=False) == whole
    assert pairs_of(shards, changed["data"]) == set(islice(write_tasks(3), 60))


def test_an_answer_s_length_is_a_story_s_and_is_counted(params: dict, shards: Shards, tmp_path: Path) -> None:
    source = StoryTasks(kind="story_tasks", grammar="short", num_documents=60, seed=3, weight=None)
    changed = task_section(params, source)
    make_shards(changed, tmp_path / "tasks")
    rows = RowDataset(Shards(tmp_path / "tasks"), "train", changed["data"])
    ids = [rows.read(np.array([k]))[0] for k in range(len(rows))]
    rooms = [int((~instruction_mask(row[None], rows.end_id)).sum()) for row in ids]
    assert rows.answers is not None and all(room % 4 == 0 for room in rooms)
    assert sum(sum(each.counts) for each in rows.answers.lengths) == len(rooms)
    assert max(each.longest for each in rows.answers.lengths) == max(rooms)
    layouts = [dataclasses.replace(params["data"], rows=rows) for rows in ("documents", "tasks")]
    lengths = [RowDataset(shards, "train", section).lengths() for section in layouts]
    assert lengths[0] == lengths[1]
    folders = shards.folder, tmp_path / "tasks"
    assert ["chat_template" in read_json(each / "tokenizer_config.json") for each in folders] == [False, True]


def test_answers_are_cut_at_a_row_s_end_and_counted(params: dict, tmp_path: Path) -> None:
    pairs = [{"instruction": "go", "response": "a " * (20 if k % 4 else 90)} for k in range(40)]
    changed = task_section(params, files_of(tmp_path, [{**p, "response": p["response"] + str(k)}
                                                       for k, p in enumerate(pairs)]))  # fmt: skip
    make_shards(changed, tmp_path / "shards")
    section = dataclasses.replace(changed["data"], row_length=64)
    rows = [RowDataset(Shards(tmp_path / "shards"), split, section) for split in ("train", "heldout")]
    assert sum(each.layout.num_truncated for each in rows) == 10  # type: ignore[union-attr]
    assert sum(map(len, rows)) == 40 and max(each.lengths().longest for each in rows) == 64
    with pytest.raises(UserError, match="leaves no room in a row of data.row_length = 8"):
        long = [{"instruction": f"tell me all about it {k} " * 3, "response": "no"} for k in range(30)]
        changed = task_section(params, files_of(tmp_path, long))
        make_shards(changed, tmp_path / "long")
        RowDataset(Shards(tmp_path / "long"), "train", dataclasses.replace(changed["data"], row_length=8))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"instruction": "go", "response": "  "}, "needs an instruction and a response"),
        ({"instruction": "", "response": "gone"}, "needs an instruction and a response"),
        ({"response": "gone"}, "has no 'instruction'; set the source's instruction_column"),
        ({"instruction": "go", "answer": "gone"}, "has no text under 'response'"),
        ({"instruction": "go", "response": "a\x1eb"}, "stands between turns"),
    ],
)  # fmt: skip
def test_a_task_that_is_none_is_refused_with_its_line(
    row: dict, says: str, params: dict, tmp_path: Path
) -> None:
    rows = [{"instruction": asked, "response": said} for asked, said in PAIRS] + [row]
    with pytest.raises(UserError, match=f"line 61: .*{says}"):
        make_shards(task_section(params, files_of(tmp_path, rows)), tmp_path / "shards")
