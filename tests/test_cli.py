from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from sunfish.runtime.cli import main
from sunfish.runtime.generator import Frame, Sampler
from sunfish.runtime.settings import Settings
from sunfish.runtime.watch import draw, watch
from sunfish.sampling.onnx_backend import OnnxNetwork


def cli(exported: Path, *arguments: str) -> Any:
    verb, *rest = arguments
    return CliRunner().invoke(main, [verb, "--model", str(exported), *rest])


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
        (["generate", "--length", "100001"], "must lie between 1 and 100,000"),
        (["generate", "--length", "0"], "must lie between 1 and 100,000"),
        (["generate", "--num", "0"], "must be at least 1"),
        (["generate", "--num", "2000000"], "at most 1,000,000"),
        (["generate", "--batch", "0"], "--batch = 0: must be at least 1"),
        (["generate", "--batch", "100000000", "--num", "1000000", "--length", "8"], "are free"),
        (["infill", "one [MASK] .", "--num", "500000", "--candidates", "3"], "of 3 candidates each"),
        (["generate", "--steps", "20000"], "more than 10,000"),
        (["generate", "--order", "random"], "--order = random: a model that is not told how long"),
        (
            ["generate", "--provider", "NoSuchProvider"],
            "NoSuchProvider is not installed; this onnxruntime has",
        ),
        (["generate", "--prompt", "one \udce9"], "half a surrogate pair"),
        (["infill", "one \udce9 [MASK]"], "half a surrogate pair"),
        (["generate", "--steps", "0"], "at least 1 step"),
        (["generate", "--sampler", "ddim", "--eta", "2"], "eta must lie between"),
        (["generate", "--eta", "2"], "eta must lie between"),
        (["generate", "--temperature", "0"], "must be above 0"),
        (["generate", "--settle", "0"], "settle must lie above 0"),
        (["generate", "--seed", "-1"], "must not be negative"),
        (["infill", "--candidates", "0", "one [MASK] ."], "--candidates = 0: must be at least 1"),
    ],
)
def test_bad_input_is_one_clear_line(
    exported: Path, sampler: Sampler, arguments: list[str], says: str
) -> None:
    done = cli(exported, *arguments)
    assert done.exit_code == 1
    assert says.format(longest=sampler.lengths.longest) in done.output
    assert done.output.startswith("error: ") and done.output.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["generate", "--batch", "1000000"], "are free"),
        (["generate", "--length", "100000", "--batch", "1000000"], "are free"),
        (["generate", "--temperature", "0"], "must be above 0"),
        (["generate", "--steps", "0"], "at least 1 step"),
        (["infill", "one [MASK] .", "--candidates", "1", "--batch", "1000000"], "are free"),
        (
            ["infill", "one [MASK] .", "--candidates", "2"],
            "--num = 1000000 of 2 candidates each: at most 1,000,000 in all",
        ),
    ],
)
def test_what_cannot_be_done_for_many_texts_is_said_before_any_is_begun(
    exported: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    def begin(*_: Any) -> None:
        raise AssertionError("a text was begun")

    monkeypatch.setattr("sunfish.runtime.generator._generators", begin)
    monkeypatch.setattr("sunfish.runtime.generator._candidate", begin)
    done = cli(exported, *arguments, "--num", "1000000")
    assert done.exit_code == 1 and says in done.output and done.output.startswith("error: ")


def test_json_for_programs(exported: Path) -> None:
    done = cli(exported, "generate", "--num", "2", "--steps", "3", "--json")
    answer = json.loads(done.stdout)
    assert len(answer["texts"]) == 2 and answer["settings"]["seed"] == 0


def test_a_folder_says_what_it_is(exported: Path) -> None:
    told = json.loads(CliRunner().invoke(main, ["info", str(exported), "--json"]).stdout)
    assert told["licence"] == "MIT" and all(walk["different_ids"] == 0 for walk in told["parity"]["walks"])
    lines = CliRunner().invoke(main, ["info", str(exported)]).stdout
    assert (
        f"{told['parameters']:,} parameters" in lines
        and told["made_from"]["model_sha256"] in lines
        and "step_quantized.onnx" in lines
    )
    missing = CliRunner().invoke(main, ["info", str(exported / "nowhere")])
    assert missing.exit_code == 1 and "is not an exported model" in missing.output


def test_an_interruption_is_no_traceback(exported: Path, monkeypatch: Any) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(OnnxNetwork, "step", interrupt)
    done = cli(exported, "generate")
    assert done.exit_code == 130 and "Traceback" not in done.output


def test_watching_leaves_the_text_and_nothing_else(sampler: Sampler) -> None:
    frames, out = list(sampler.stream(settings=Settings(steps=5))), io.StringIO()
    watch(frames, out, step_seconds=0.0)
    assert f"step 1 of {frames[0].num_steps}" in out.getvalue()
    assert out.getvalue().endswith(f"\x1b[J{frames[-1].text}\n\n")


def test_a_frame_fits_its_terminal() -> None:
    words = ["once", " anna", " had", " a", " dog", " ."]
    frame = Frame(1, 2, words, np.array([1.0, 0.1, 0.3, 0.7, 0.8, 0.9]), np.array([True, *[False] * 5]))
    lines = [re.sub("\x1b\\[[0-9;]*m", "", line) for line in draw(frame, 10)]
    assert lines == ["once ····", "had a dog", "."] and draw(frame, 80)[0].startswith(
        "\x1b[1monce\x1b[0m\x1b[2m ····\x1b[0m"
    )
    assert all(len(line) <= 10 for line in lines)


def test_watching_needs_a_terminal(exported: Path) -> None:
    done = cli(exported, "generate", "--watch")
    assert done.exit_code == 1 and "--watch draws in a terminal" in done.output
