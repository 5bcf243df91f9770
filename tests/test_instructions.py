"""The runtime takes instructions: they are given, never shown, and answers are as long as in training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sunfish.errors import UserError
from sunfish.runtime.cli import main
from sunfish.runtime.generator import Sampler
from sunfish.runtime.settings import Settings

pytest_plugins = ["tests.exports"]
FAST = Settings(seed=3, steps=2, max_rounds=3)
ASKED = "one day anna"


@pytest.fixture(scope="module")
def told(told_folder: Path) -> Sampler:
    return Sampler.load(told_folder, num_threads=1)


def test_an_answer_stands_behind_its_instruction(told: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    sample = type(told.batches).sample

    def record(batches: Any, rows: Any, rngs: Any, how: Any) -> Any:
        seen.extend(rows)
        return sample(batches, rows, rngs, how)

    monkeypatch.setattr(type(told.batches), "sample", record)
    texts = told.generate(8, settings=FAST, instruction=ASKED)
    given = [*told.tokenizer.encode(ASKED), told.tokenizer.end_id]
    assert {len(row.ids) for row in seen} == {len(given) + 24}
    assert all(row.ids[row.known].tolist() == given for row in seen)
    assert len({text.text for text in texts}) > 1


def test_length_prompt_and_instruction_go_together(told: Sampler) -> None:
    (text,) = told.generate(length=6, prompt="one", settings=FAST, instruction=ASKED)
    assert text.text.startswith("one")
    frames = list(told.stream(length=6, prompt="one", settings=FAST, instruction=ASKED))
    assert frames[-1].text == text.text and max(len(frame.words) for frame in frames) <= 6


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"instruction": " "}, "the instruction is empty"),
        ({"instruction": "anna " * 40}, "leaves room for 0 of an answer in rows of 36"),
        ({"instruction": ASKED, "length": 35}, "fewer than --length = 35 asks for"),
    ],
)
def test_what_leaves_no_room_is_refused(told: Sampler, asked: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        told.generate(settings=FAST, **asked)


def test_a_model_without_instructions_says_so(writer: Sampler) -> None:
    with pytest.raises(UserError, match="takes no instructions"):
        writer.generate(settings=FAST, instruction=ASKED)


def test_the_command_writes_what_it_is_told(told_folder: Path, told: Sampler) -> None:
    fast = ["--threads", "1", "--seed", "3", "--steps", "2", "--max-rounds", "3", "--json"]
    done = [
        CliRunner().invoke(main, [*command, "--model", str(told_folder), *fast])
        for command in (["write", ASKED], ["generate", "--instruction", ASKED])
    ]
    outputs = [json.loads(each.stdout) for each in done]
    expected = told.generate(settings=FAST, instruction=ASKED)[0].text
    assert [each["texts"][0]["text"] for each in outputs] == [expected, expected]
    assert outputs[0]["settings"]["instruction"] == ASKED
