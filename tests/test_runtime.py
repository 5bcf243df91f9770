"""The runtime layer: the same seed gives the same text, what is given stays, what cannot be done is said."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sunfish.config.schema.tracking import TrackingConfig
from sunfish.diffusion.lengths import RowLengths
from sunfish.errors import UserError
from sunfish.runtime.frames import split_words
from sunfish.runtime.generator import Sampler
from sunfish.runtime.prompts import empty_gaps, infill_row, unseen_note, unseen_words
from sunfish.runtime.settings import Settings
from tests.exports import CHECKED

pytest_plugins = ["tests.exports"]

FAST = Settings(seed=3, steps=2, max_rounds=3)
KEEPING = dataclasses.replace(FAST, sampler="ddpm-categorical", confidence_threshold=0.1)
UNCHECKED = dataclasses.replace(FAST, check=False, max_rounds=None)
GAPS = ["[MASK] day", "one day [MASK]", "[MASK:2] [MASK] [MASK:3]", "[MASK] один [MASK:2]"]
GAPS += ["[MASK]🐟[MASK]", "[MASK:3]"]


def texts(answers: list[Any]) -> list[str]:
    return [str(answer) for answer in answers]


@pytest.mark.parametrize("settings", [FAST, KEEPING, UNCHECKED])
def test_the_same_seed_gives_the_same_text_whatever_the_batch(writer: Sampler, settings: Settings) -> None:
    alike = [
        writer.generate(5, settings=dataclasses.replace(settings, batch=batch)) for batch in (1, 2, 5, None)
    ]
    told = [[(t.text, t.calls, t.corrected) for t in each] for each in alike]
    assert all(each == told[0] for each in told)
    assert texts(writer.generate(2, settings=settings)) == texts(alike[0][:2])


def test_another_seed_gives_another_text(writer: Sampler) -> None:
    drawn = [texts(writer.generate(3, settings=dataclasses.replace(FAST, seed=seed))) for seed in (7, 8, 7)]
    assert drawn[0] == drawn[2] != drawn[1]


def test_a_seed_is_drawn_and_said(writer: Sampler, monkeypatch: Any) -> None:
    notes: list[str] = []
    monkeypatch.setattr(writer, "note", notes.append)
    (first,) = writer.generate(settings=dataclasses.replace(FAST, seed=None))
    (seed,) = (int(note.removeprefix("--seed ")) for note in notes)
    assert writer.generate(settings=dataclasses.replace(FAST, seed=seed))[0].text == first.text


def test_calls_and_corrections_are_counted(writer: Sampler) -> None:
    plain = writer.generate(4, settings=Settings(seed=0, sampler="ddim", steps=5, check=False))
    assert [(t.calls, t.corrected) for t in plain] == [(5, 0)] * 4
    checked = writer.generate(4, settings=Settings(seed=0, steps=5, check_epsilon=0.5))
    most = 5 + 6 * (1 + 2)  # the last draft is not checked
    assert all(t.calls == most or (t.calls - 6) % 3 == 0 for t in checked)
    assert all(t.corrected <= 6 for t in checked)
    assert sum(t.corrected for t in checked) > 0 and all(t.seconds > 0 for t in checked)
    free = writer.generate(4, settings=Settings(seed=0, steps=5, check_epsilon=0.0))
    assert [(t.calls, t.corrected) for t in free] == [(6, 0)] * 4 and texts(free) == texts(plain)


def test_eight_bits_write_too(folder: Path) -> None:
    small = Sampler.load(folder, precision="int8", num_threads=1)
    assert texts(small.generate(2, settings=FAST)) == texts(small.generate(2, settings=FAST))


def test_given_words_stay(writer: Sampler) -> None:
    for text in texts(writer.infill("one day [MASK:2] went to the park . she was [MASK] .", 5, FAST)):
        assert text.startswith("one day") and " went to the park . she was" in text and text.endswith(" .")
    begun = texts(writer.generate(3, prompt="one day anna", settings=FAST))
    assert all(text.startswith("one day anna") for text in begun)


@pytest.mark.parametrize("text", GAPS)
def test_gaps_stand_anywhere_in_any_script(writer: Sampler, text: str) -> None:
    given = [part for part in re.split(r" ?\[MASK(?::\d+)?\]", text) if part]
    (filled,) = texts(writer.infill(text, settings=FAST))
    assert all(part in filled for part in given)


def test_gaps_are_filled_by_their_own_check(writer: Sampler) -> None:
    text, once = "once there was a [MASK:4] .", Settings(seed=3)
    lenient = dataclasses.replace(CHECKED.check, epsilon=0.0)
    config = dataclasses.replace(writer.config, sampler=dataclasses.replace(CHECKED, gap_check=lenient))
    other = Sampler(writer.batches.open_graph, writer.tokenizer, writer.batches.schedule, config)
    assert other.generate(1, settings=once)[0].calls == writer.generate(1, settings=once)[0].calls
    assert other.infill(text, 1, once)[0].calls == CHECKED.steps + 1 < writer.infill(text, 1, once)[0].calls


def test_a_gap_alone_is_a_whole_text(writer: Sampler) -> None:
    assert texts(writer.infill("[MASK]", 2, FAST)) == texts(writer.generate(2, settings=FAST))
    last = [frame.text for frame in writer.stream_infill(" [MASK] ", 2, FAST) if frame.is_last]
    assert last == texts(writer.generate(2, settings=FAST))


def test_gaps_take_the_space_before_them(writer: Sampler) -> None:
    lengths = RowLengths.count([4, 20, 40], 10)
    row = infill_row(writer.tokenizer, "she was [MASK:1] .", lengths, np.random.default_rng(0))
    given = [*writer.tokenizer.encode("she was"), None, *writer.tokenizer.encode(" .")]
    assert [int(i) if k else None for i, k in zip(row.ids, row.known, strict=True)][: len(given)] == given
    assert len(row.ids) == 20 and set(row.ids[len(given) :]) == {writer.tokenizer.end_id}


def test_a_gap_without_a_number_has_one_to_eight_tokens(writer: Sampler) -> None:
    lengths = RowLengths.count([40], 10)
    rows = [
        infill_row(writer.tokenizer, "one day [MASK] .", lengths, np.random.default_rng(k)) for k in range(99)
    ]
    assert {int((~row.known).sum()) for row in rows} == set(range(1, 9))
    tight = " ".join(["day"] * 35)
    rows = [
        infill_row(writer.tokenizer, f"{tight} [MASK]", lengths, np.random.default_rng(k)) for k in range(20)
    ]
    assert max(len(row.ids) for row in rows) <= 40


def test_an_empty_gap_is_counted(writer: Sampler) -> None:
    text = "one [MASK:2] day [MASK:1] ."
    row = infill_row(writer.tokenizer, text, writer.lengths, np.random.default_rng(0))
    assert empty_gaps(writer.tokenizer, row, row.ids) == 2  # its ids are end tokens there
    ids = np.where(row.known, row.ids, writer.tokenizer.encode(" park")[0])
    assert empty_gaps(writer.tokenizer, row, ids) == 0


def test_words_that_the_tokenizer_has_never_seen(writer: Sampler) -> None:
    unseen = unseen_words(writer.tokenizer, "one day zebra went [MASK] to the park größer .")
    assert unseen == ["zebra", "größer"]


def test_a_word_that_begins_no_text_is_not_called_unseen(writer: Sampler) -> None:
    assert unseen_note(writer.tokenizer, "one park") is None
    assert unseen_note(writer.tokenizer, "park . the zebra") == (
        "the tokenizer has never seen 'zebra' and has seen 'park' behind a space only; "
        "the model reads single bytes there"
    )


def test_lengths_are_those_of_the_training(writer: Sampler) -> None:
    lengths = {len(writer._row(None, None, np.random.default_rng(k), None).ids) for k in range(50)}
    assert lengths == {16, 24, 32}
    assert len(writer._row(10, None, np.random.default_rng(0), None).ids) == 10


def test_a_text_longer_than_a_row_is_written_in_pieces(writer: Sampler, monkeypatch: Any) -> None:
    longest, begun, told = writer.lengths.longest, writer.tokenizer.encode("one day anna"), []
    plain = type(writer.batches).sample

    def never_ending(batches: Any, rows: Any, rngs: Any, how: Any) -> Any:
        told.append(rows)
        return [
            dataclasses.replace(w, ids=np.where(w.ids == writer.tokenizer.end_id, begun[0], w.ids))
            for w in plain(batches, rows, rngs, how)
        ]

    monkeypatch.setattr(type(writer.batches), "sample", never_ending)
    answers = writer.generate(2, 3 * longest + 1, "one day anna", FAST)
    assert all(len(writer.tokenizer.encode(str(a))) >= 3 * longest + 1 for a in answers)
    assert all(str(a).startswith("one day anna") for a in answers)
    assert all(len(row.ids) <= longest and row.known.sum() <= longest // 2 for rows in told for row in rows)
    assert answers[0].calls > 3 * 2


def test_a_stream_ends_in_the_text_that_generate_returns(writer: Sampler) -> None:
    settings = dataclasses.replace(FAST, check_epsilon=0.5)
    frames = list(writer.stream(2, settings=settings))
    last = [frame for frame in frames if frame.is_last]
    answers = writer.generate(2, settings=settings)
    assert [(f.text, f.calls, f.corrected) for f in last] == [(a.text, a.calls, a.corrected) for a in answers]
    kinds = [frame.kind for frame in frames]
    assert kinds[:3] == ["denoise", "denoise", "check"] and "correct" in kinds
    for before, check, after in zip(frames, frames[1:], frames[2:], strict=False):
        if after.kind == "correct":
            assert check.kind == "check" and check.text == before.text and check.rejected.sum() == 1
    assert all(len(f.words) == len(f.probability) == len(f.known) == len(f.rejected) for f in frames)
    filled = list(writer.stream_infill("one day [MASK:2] .", 2, FAST))
    assert [f.text for f in filled if f.is_last] == texts(writer.infill("one day [MASK:2] .", 2, FAST))


def test_a_character_of_several_tokens_is_one_word(writer: Sampler) -> None:
    assert "".join(split_words(writer.tokenizer, writer.tokenizer.encode("a café"))) == "a café"
    assert split_words(writer.tokenizer, []) == []


def test_no_room_is_said_before_it_is_tried(folder: Path, writer: Sampler, monkeypatch: Any) -> None:
    monkeypatch.setattr("sunfish.runtime.memory.free_bytes", lambda: 1000)
    with pytest.raises(UserError, match="the weights of .* take about"):
        Sampler.load(folder)
    with pytest.raises(UserError, match="1 texts of 8 tokens at once take about"):
        writer.generate(1, length=8)
    monkeypatch.setattr("sunfish.runtime.memory.free_bytes", lambda: None)
    assert len(writer.generate(1, length=8, settings=FAST)) == 1


def test_sampling_never_loads_torch(folder: Path) -> None:
    code = (
        "import sys\nfrom sunfish import Sampler, Settings\n"
        f"Sampler.load({str(folder)!r}).generate(1, settings=Settings(steps=2, seed=0))\n"
        "heavy = {'torch', 'lightning', 'transformers', 'omegaconf', 'hydra', 'mlflow'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_mlflow_answers_as_the_folder_does(
    folder: Path, writer: Sampler, tmp_path: Path, monkeypatch: Any
) -> None:
    import mlflow

    from sunfish.export.register import register

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    register(folder, TrackingConfig(enabled=True, experiment="test", uri=uri, loggers=("mlflow",)), Settings)
    mlflow.set_tracking_uri(uri)
    model = mlflow.pyfunc.load_model("models:/sunfish@newest")
    asked = ["the dog [MASK] .", "one day", "", "[MASK:0]", "word " * 99, None]
    answers = model.predict(asked, params={"seed": 3, "steps": 5, "check": False})
    settings = Settings(seed=3, steps=5, check=False)
    freely = [str(writer.generate(prompt=prompt, settings=settings)[0]) for prompt in ("one day", None)]
    assert answers[:3] == [str(writer.infill("the dog [MASK] .", settings=settings)[0]), *freely]
    assert all(answer.startswith("error: ") for answer in answers[3:])
