from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from sunfish.cli import main
from sunfish.export.folder import export_folder
from sunfish.files import read_json
from sunfish.lengths import RowLengths
from sunfish.problems import Problem
from sunfish.runtime.prompts import infill_row, prompt_row
from sunfish.runtime.sampler import Frame, Sampler, Settings
from sunfish.runtime.watch import draw, watch
from tests.test_training import OFF


@pytest.fixture(scope="module")
def exported(params: dict, trained: Path) -> Path:
    export_folder(trained / "denoiser", trained / "onnx", trained / "export.json", params["export"], OFF)
    return trained / "onnx"


@pytest.fixture(scope="module")
def sampler(exported: Path) -> Sampler:
    return Sampler.load(exported)


def cli(exported: Path, *arguments: str) -> Any:
    verb, *rest = arguments
    return CliRunner().invoke(main, [verb, "--model", str(exported), *rest])


def test_the_graph_says_what_torch_says(trained: Path, exported: Path) -> None:
    parity = read_json(trained / "export.json")["parity"]
    assert parity["different_ids"] == 0 and parity["ids"] == 4 * read_json(exported / "config.json")["row_lengths"]["lengths"][-1]
    assert parity["relative_error_per_call"] < 1e-5


def test_the_graph_takes_any_batch_and_length(exported: Path) -> None:
    graph = onnx.load(exported / "onnx" / "model.onnx").graph
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in [*graph.input, *graph.output]}
    assert shapes["x_t"][:2] == ["batch", "pos"] and shapes["logits"][:2] == ["batch", "pos"] and shapes["logsnr"] == ["batch"]
    assert list(shapes) == ["x_t", "logsnr", "x_0_prev", "known", "temperature", "x_0_hat", "logits"]


def test_the_same_seed_gives_the_same_text_however_many(sampler: Sampler) -> None:
    settings = Settings(steps=4, seed=7)
    assert sampler.generate(3, settings=settings)[:2] == sampler.generate(2, settings=settings)


def test_another_seed_gives_another_text(sampler: Sampler, monkeypatch: Any) -> None:
    def echo(x: np.ndarray, *_: object) -> Any:  # a denoiser that believes whatever it sees
        return x, x @ sampler.embedding.T

    monkeypatch.setattr(sampler.session, "call", echo)
    texts = [sampler.generate(1, settings=Settings(steps=4, seed=seed)) for seed in (7, 8, 7)]
    assert texts[0] == texts[2] != texts[1]


def test_infilling_keeps_every_given_word(sampler: Sampler) -> None:
    text = "one day [MASK:2] went to the park . she was [MASK] ."
    for filled in sampler.infill(text, 5, Settings(steps=4)):
        assert filled.startswith("one day") and " went to the park . she was" in filled and filled.endswith(" .")


def test_a_prompt_begins_every_text(sampler: Sampler) -> None:
    assert all(text.startswith("once anna had") for text in sampler.generate(3, prompt="once anna had", settings=Settings(steps=3)))


def test_gaps_take_the_space_before_them(sampler: Sampler) -> None:
    row = infill_row(sampler.tokenizer, "she was [MASK] .", RowLengths.count([4, 20, 40], 10))
    given = sampler.tokenizer.encode("she was") + [None] + sampler.tokenizer.encode(" .")
    assert [int(i) if k else None for i, k in zip(row.ids, row.known, strict=True)][: len(given)] == given
    assert len(row.ids) == 20 and row.known.sum() == 19 and set(row.ids[len(given) :]) == {sampler.tokenizer.end_id}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["infill", "no gap here"], "the text has no gap"),
        (["infill", ""], "the text is empty"),
        (["infill", "a [MASK:500] b"], "[MASK:500] is longer than the model's length of {longest} tokens"),
        (["infill", "a [MASK:0] b"], "a gap of no tokens"),
        (["infill", "[MASK] " + "word " * 200], "tokens, gaps included, but the model's length is {longest}"),
        (["generate", "--prompt", ""], "the prompt is empty"),
        (["generate", "--prompt", "word " * 200], "leaves no room in a text of {longest}"),
        (["generate", "--length", "97"], "must lie between 1 and {longest}"),
        (["generate", "--length", "0"], "must lie between 1 and {longest}"),
        (["generate", "--num", "0"], "must be at least 1"),
        (["generate", "--steps", "1"], "at least 2 steps"),
        (["generate", "--eta", "2"], "eta must lie between"),
        (["generate", "--temperature", "0"], "must be above 0"),
        (["generate", "--settle", "0"], "settle must lie above 0"),
        (["generate", "--seed", "-1"], "must not be negative"),
    ],
)
def test_bad_input_is_one_clear_line(exported: Path, sampler: Sampler, arguments: list[str], says: str) -> None:
    done = cli(exported, *arguments)
    assert done.exit_code == 1
    assert says.format(longest=sampler.lengths.longest) in done.output
    assert done.output.startswith("error: ") and done.output.count("\n") == 1


def test_json_for_programs(exported: Path) -> None:
    done = cli(exported, "generate", "--num", "2", "--steps", "3", "--json")
    answer = json.loads(done.stdout)
    assert len(answer["texts"]) == 2 and answer["settings"]["seed"] == 0
    assert json.loads(cli(exported, "info").stdout)["parity"]["different_ids"] == 0


@pytest.mark.parametrize("name", ["onnx/model.onnx", "tokenizer.json", "noise_law.json", "embedding.npy", "manifest.json"])
def test_a_missing_or_altered_file_is_named(exported: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    if name != "manifest.json":
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)
        with pytest.raises(Problem, match=f"{name}: was altered"):
            Sampler.load(folder)
    (folder / name).unlink()
    with pytest.raises(Problem, match=name):
        Sampler.load(folder)


def test_sampling_never_loads_torch(exported: Path) -> None:
    code = (
        "import sys\nfrom sunfish.runtime.sampler import Sampler, Settings\n"
        f"Sampler.load({str(exported)!r}).generate(1, settings=Settings(steps=3))\n"
        "print(sorted({'torch', 'lightning', 'transformers', 'omegaconf', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


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
    assert all(frame.text.startswith("one day") and frame.text.endswith(" .") and frame.stays.any() for frame in frames)


def test_a_character_of_several_tokens_is_one_word(sampler: Sampler) -> None:
    ids = sampler.tokenizer.encode("a café")
    assert "".join(sampler._words(ids)) == "a café"


def test_watching_leaves_the_text_and_nothing_else(sampler: Sampler) -> None:
    frames, out = list(sampler.stream(settings=Settings(steps=5))), io.StringIO()
    watch(frames, out, step_seconds=0.0)
    assert f"step 1 of {frames[0].num_steps}" in out.getvalue()
    assert out.getvalue().endswith(f"\x1b[J{frames[-1].text}\n\n")


def test_a_frame_fits_its_terminal() -> None:
    words = ["once", " anna", " had", " a", " dog", " ."]
    frame = Frame(1, 2, words, np.array([1.0, 0.1, 0.3, 0.7, 0.8, 0.9]), np.array([True, *[False] * 5]))
    lines = [re.sub("\x1b\\[[0-9;]*m", "", line) for line in draw(frame, 10)]
    assert lines == ["once ····", "had a dog", "."] and draw(frame, 80)[0].startswith("\x1b[1monce\x1b[0m\x1b[2m ····\x1b[0m")
    assert all(len(line) <= 10 for line in lines)


def test_watching_needs_a_terminal(exported: Path) -> None:
    done = cli(exported, "generate", "--watch")
    assert done.exit_code == 1 and "--watch draws in a terminal" in done.output
