from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sunfish.config.schema.tracking import TrackingConfig
from sunfish.diffusion.lengths import RowLengths
from sunfish.errors import UserError
from sunfish.runtime.generator import Sampler
from sunfish.runtime.memory import row_bytes
from sunfish.runtime.prompts import infill_row, prompt_row
from sunfish.runtime.settings import Settings
from sunfish.sampling.onnx_backend import OnnxNetwork
from sunfish.sampling.solvers import Given, Table
from tests.builders import ROOT


def test_the_same_seed_gives_the_same_text_however_many(sampler: Sampler) -> None:
    settings = Settings(steps=4, seed=7)
    assert sampler.generate(3, settings=settings)[:2] == sampler.generate(2, settings=settings)


def test_another_seed_draws_other_noise(sampler: Sampler, monkeypatch: Any) -> None:
    drawn = []
    start = OnnxNetwork.start

    def started(network: OnnxNetwork, table: Table, given: Given, place: np.ndarray) -> None:
        start(network, table, given, place)
        drawn.append(network.told["noise"].numpy().copy())

    monkeypatch.setattr(OnnxNetwork, "start", started)
    for seed in (7, 8, 7):
        sampler.generate(1, length=10, settings=Settings(steps=4, seed=seed))
    assert np.array_equal(drawn[0], drawn[2]) and not np.array_equal(drawn[0], drawn[1])


def test_the_batch_changes_nothing(sampler: Sampler) -> None:
    texts = [
        sampler.generate(5, length=20, settings=Settings(steps=4, seed=3, batch=batch))
        for batch in (1, 2, 5, None)
    ]
    assert all(text == texts[0] for text in texts)


def test_eight_bits_write_too(exported: Path) -> None:
    small = Sampler.load(exported, precision="int8")
    assert small.generate(2, settings=Settings(steps=4)) == small.generate(2, settings=Settings(steps=4))
    assert small.infill("one day [MASK] went to the park .", settings=Settings(steps=4))[0].endswith(
        " went to the park ."
    )


def test_infilling_keeps_every_given_word(sampler: Sampler) -> None:
    text = "one day [MASK:2] went to the park . she was [MASK] ."
    for filled in sampler.infill(text, 5, Settings(steps=4)):
        assert (
            filled.startswith("one day") and " went to the park . she was" in filled and filled.endswith(" .")
        )


def test_the_filling_is_the_likeliest_of_its_candidates(sampler: Sampler) -> None:
    text, score = "one day [MASK:3] went to the park .", sampler.open_graph("score")
    row = infill_row(sampler.tokenizer, text, sampler.lengths)
    tried = [
        ids
        for number in range(1, 5)
        for _, ids, _ in sampler._fill(text, 2, sampler.resolve(Settings(steps=4, candidates=number)))
    ]
    nats = score.run(["nats"], {"ids": np.stack(tried)})[0].sum(axis=1).reshape(4, 2)
    assert (np.diff(nats, axis=0) <= 0).all() and nats[3].sum() < nats[
        0
    ].sum()  # more candidates, the first ones among them
    shown = sampler._around_gaps(row)
    assert sampler.infill(text, 2, Settings(steps=4, candidates=4)) == [
        sampler.tokenizer.decode(i[shown(i)].tolist()) for i in tried[-2:]
    ]


def test_a_graph_is_loaded_once(sampler: Sampler, monkeypatch: Any) -> None:
    opened, plain = list[str](), sampler.open_graph
    monkeypatch.setattr(sampler, "sessions", {})
    monkeypatch.setattr(sampler, "open_graph", lambda name: opened.append(name) or plain(name))
    for _ in range(2):
        sampler.infill("one day [MASK:2] .", settings=Settings(candidates=2))
    assert len(opened) == len(set(opened)) == 2 and "score" in opened


def test_a_gap_without_a_number_chooses_its_length(sampler: Sampler) -> None:
    """Of candidates of several lengths the one whose text, its row's length included, is the likeliest; room
    and numbers are kept to.
    """
    text, settings = "one day [MASK] went to the [MASK:2] .", Settings(steps=4, candidates=12)
    begun = [sampler._begin_filling(text, 0, 0, number)[0] for number in range(12)]
    sizes = [int((~row.known).sum()) - 2 for row in begun]
    assert sizes[0] == 1 and len(set(sizes)) > 3 and max(sizes) <= 8
    ((row, ids, number),) = sampler._fill(text, 1, sampler.resolve(settings))
    every = sampler._sample(
        *map(list, zip(*(sampler._begin_filling(text, 0, 0, k) for k in range(12)), strict=True)),
        sampler.resolve(settings),
    )
    nats = sampler._nats(every)
    assert number == nats.argmin() and np.array_equal(ids, every[number]) and len(row.ids) == len(ids)
    longest = sampler.lengths.longest
    tight = " ".join(["day"] * (longest - 4)) + " [MASK] [MASK]"
    assert all(len(sampler._begin_filling(tight, 0, 0, k)[0].ids) <= longest for k in range(12))
    assert list(sampler.stream_infill(text, 1, settings))[-1].text == sampler.infill(text, 1, settings)[0]


def test_samplers_that_draw_no_word_take_steps_enough_for_noise_to_have_its_say(sampler: Sampler) -> None:
    recommended, longest = sampler.config["sampler"], sampler.lengths.longest
    assert (recommended["name"], recommended["window_steps"]) == ("picard", 1)
    for name, own, steps in (
        ("ddim", 4, 4 * longest),
        ("ddpm", 4, 4 * longest),
        ("ancestral", 1, recommended["steps"]),
    ):
        table = sampler.resolve(Settings(sampler=name)).table
        assert len(table.logsnr) == own and len(table) == max(steps, recommended["steps"])
    told = sampler.resolve(Settings(sampler="ddim", steps=9, window_steps=2)).table
    assert len(told.logsnr) == 2 and len(told) == 9


def test_a_prompt_begins_every_text(sampler: Sampler) -> None:
    assert all(
        text.startswith("once anna had")
        for text in sampler.generate(3, prompt="once anna had", settings=Settings(steps=3))
    )


def test_a_text_longer_than_any_of_the_training_is_written_on_and_on(
    sampler: Sampler, monkeypatch: Any
) -> None:
    longest, begun = sampler.lengths.longest, sampler.tokenizer.encode("once anna had")
    settings, rows = Settings(steps=2), list[Any]()
    plain = sampler._sample
    monkeypatch.setattr(
        sampler, "_sample", lambda told, rngs, how: rows.append(told) or never_end(plain(told, rngs, how))
    )

    def never_end(written: list[np.ndarray]) -> list[np.ndarray]:
        return [np.where(ids == sampler.tokenizer.end_id, begun[0], ids) for ids in written]

    texts = sampler._write_long(
        3 * longest + 1,
        "once anna had",
        [np.random.default_rng(k) for k in range(2)],
        sampler.resolve(settings),
    )
    assert [len(ids) for ids in texts] == [3 * longest + 1] * 2 and all(
        ids[: len(begun)] == begun for ids in texts
    )
    assert all(len(row.ids) <= longest and row.known.sum() <= longest // 2 for told in rows for row in told)
    second = rows[1][0]
    assert (
        second.ids[second.known].tolist() == texts[0][:longest][-(longest // 2) :]
    )  # each is given the end of the one before
    monkeypatch.undo()
    ended = sampler.generate(2, length=3 * longest, settings=settings)
    assert ended == sampler.generate(2, length=3 * longest, settings=settings)
    with pytest.raises(UserError, match="a longer text is no single walk"):
        next(sampler.stream(length=longest + 1))


def test_gaps_take_the_space_before_them(sampler: Sampler) -> None:
    row = infill_row(sampler.tokenizer, "she was [MASK] .", RowLengths.count([4, 20, 40], 10))
    given = sampler.tokenizer.encode("she was") + [None] + sampler.tokenizer.encode(" .")
    assert [int(i) if k else None for i, k in zip(row.ids, row.known, strict=True)][: len(given)] == given
    assert (
        len(row.ids) == 20
        and row.known.sum() == 19
        and set(row.ids[len(given) :]) == {sampler.tokenizer.end_id}
    )


@pytest.mark.parametrize(
    "text",
    [
        "[MASK] day",
        "one day [MASK]",
        "[MASK]",
        "[MASK:2] [MASK] [MASK:3]",
        "[MASK] один 一天 [MASK:2]",
        "[MASK]🐟[MASK]",
    ],
)
def test_gaps_stand_anywhere_in_any_script(sampler: Sampler, text: str) -> None:
    given = [part for part in re.split(r" ?\[MASK(?::\d+)?\]", text) if part]
    (filled,) = sampler.infill(text, settings=Settings(steps=3))
    assert all(part in filled for part in given)


def test_a_mix_up_of_two_folders_is_named(exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    shutil.copyfile(folder / "onnx" / "sampler.onnx", folder / "onnx" / "step.onnx")
    with pytest.raises(UserError, match=r"step\.onnx: was altered"):
        Sampler.load(folder)
    manifest = json.loads((exported / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 3}))
    with pytest.raises(UserError, match="format 3, this version reads format 7"):
        Sampler.load(folder)
    del manifest["bytes"]["int8"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="holds no int8 graphs, only fp32"):
        Sampler.load(folder, precision="int8")


def test_no_room_is_said_before_it_is_tried(exported: Path, sampler: Sampler, monkeypatch: Any) -> None:
    monkeypatch.setattr("sunfish.runtime.memory.free_bytes", lambda: 1000)
    with pytest.raises(UserError, match="the weights of .* take about"):
        Sampler.load(exported)
    with pytest.raises(UserError, match="1 texts of 8 tokens at once take about"):
        sampler.generate(1, length=8)
    monkeypatch.setattr("sunfish.runtime.memory.free_bytes", lambda: None)
    assert len(sampler.generate(1, length=8, settings=Settings(steps=2))) == 1


def test_texts_of_several_lengths_are_refused_only_where_those_of_one_have_no_room(
    sampler: Sampler, monkeypatch: Any
) -> None:
    monkeypatch.setattr(sampler, "lengths", RowLengths.count([8, 16, 24], 24))
    monkeypatch.setattr("sunfish.runtime.memory.free_bytes", lambda: 2 * row_bytes(sampler.config, 8))
    sampler._begin(Settings(batch=6), 6)
    with pytest.raises(UserError, match="3 texts of 8 tokens at once"):
        sampler._begin(Settings(batch=7), 7)
    with pytest.raises(UserError, match="3 texts of 8 tokens at once"):
        sampler._begin(Settings(batch=3), 3, 8, 24)


@pytest.mark.parametrize(
    "name", ["onnx/step.onnx", "onnx/model.onnx_data", "tokenizer.json", "noise_law.json", "manifest.json"]
)
def test_a_missing_or_altered_file_is_named(exported: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    if name != "manifest.json":
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)
        with pytest.raises(UserError, match=f"{name}: was altered"):
            Sampler.load(folder)
    (folder / name).unlink()
    with pytest.raises(UserError, match=name):
        Sampler.load(folder)


def test_sampling_never_loads_torch(exported: Path) -> None:
    code = (
        "import sys\nfrom sunfish.runtime.generator import Sampler\nfrom sunfish.runtime.settings import Settings\n"
        f"Sampler.load({str(exported)!r}).generate(1, settings=Settings(steps=3))\n"
        "print(sorted({'torch', 'lightning', 'transformers', 'omegaconf', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_readme_s_script_needs_no_torch(exported: Path, tmp_path: Path) -> None:
    script = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert len([line for line in script.splitlines() if line.strip()]) <= 10
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "onnx").symlink_to(exported)
    script += "import sys\nassert 'torch' not in sys.modules\n"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and len(done.stdout.splitlines()) > 4, done.stderr


def test_mlflow_answers_as_the_folder_does(
    exported: Path, sampler: Sampler, tmp_path: Path, monkeypatch: Any
) -> None:
    import mlflow

    from sunfish.export.register import register

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    register(exported, TrackingConfig(enabled=True, experiment="test", uri=uri), Settings)
    mlflow.set_tracking_uri(uri)
    model = mlflow.pyfunc.load_model("models:/sunfish@newest")
    answers = model.predict(["the dog [MASK] .", "one day", ""], params={"seed": 3, "steps": 5})
    settings = Settings(seed=3, steps=5)
    freely = [sampler.generate(prompt=prompt, settings=settings)[0] for prompt in ("one day", None)]
    assert answers == [sampler.infill("the dog [MASK] .", settings=settings)[0], *freely]


def test_a_prompt_row_leaves_the_rest_to_the_model(sampler: Sampler) -> None:
    row = prompt_row(sampler.tokenizer, "once anna", 10)
    count = len(sampler.tokenizer.encode("once anna"))
    assert row.known.sum() == count and row.known[:count].all()


def test_a_stream_ends_in_the_text_that_generate_returns(sampler: Sampler) -> None:
    settings = Settings(steps=6, seed=3, settle=0.02)
    frames = list(sampler.stream(2, settings=settings))
    assert [frame.text for frame in frames if frame.is_last] == sampler.generate(2, settings=settings)
    first = frames[: [frame.is_last for frame in frames].index(True) + 1]
    assert [frame.step for frame in first] == list(range(1, len(first) + 1)) and first[-1].step <= 6
    assert all(len(frame.words) == len(frame.probability) == len(frame.stays) for frame in frames)
    prompted = list(sampler.stream(prompt="once anna had", settings=settings))
    assert prompted[-1].text == sampler.generate(prompt="once anna had", settings=settings)[0]
    assert all(frame.text.startswith("once anna had") for frame in prompted)


def test_a_filling_is_streamed_with_what_is_given_in_place(sampler: Sampler) -> None:
    text, settings = "one day [MASK:2] went to the park . she was [MASK] .", Settings(steps=4)
    frames = list(sampler.stream_infill(text, 2, settings))
    assert [frame.text for frame in frames if frame.is_last] == sampler.infill(text, 2, settings)
    assert all(
        frame.text.startswith("one day") and frame.text.endswith(" .") and frame.stays.any()
        for frame in frames
    )


def test_a_character_of_several_tokens_is_one_word(sampler: Sampler) -> None:
    ids = sampler.tokenizer.encode("a café")
    assert "".join(sampler._words(ids)) == "a café"
