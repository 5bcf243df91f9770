"""The command line: what it prints, and that what cannot be done is one line."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from sunfish.runtime.cli import main
from sunfish.runtime.frames import Frame
from sunfish.runtime.generator import Sampler
from sunfish.runtime.settings import Settings
from sunfish.runtime.watch import draw, watch
from sunfish.sampling.onnx_backend import OnnxBackend

pytest_plugins = ["tests.exports"]


def cli(folder: Path, *arguments: str) -> Any:
    verb, *rest = arguments
    return CliRunner().invoke(main, [verb, "--model", str(folder), "--threads", "1", *rest])


def in_process(folder: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    verb, *rest = arguments
    command = [sys.executable, "-m", "sunfish", verb, "--model", str(folder), "--threads", "1", *rest]
    return subprocess.run(command, stderr=subprocess.PIPE, check=False, **options)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["infill", "no gap here"], "the text has no gap"),
        (["infill", "a [MASK:٣] b"], "the text has no gap"),  # the page reads no such digits either
        (["infill", ""], "the text is empty"),
        (["infill", "a [MASK:500] b"], "[MASK:500] is longer than the model's length of 32 tokens"),
        (["infill", "a [MASK:" + "9" * 5000 + "] b"], "is longer than the model's length"),
        (["infill", "a [MASK:0] b"], "a gap of no tokens"),
        (["infill", "[MASK] " + "day " * 200], "tokens, gaps included, but the model's length is 32"),
        (["infill", "one \udce9 [MASK]"], "half a surrogate pair"),
        (["generate", "--prompt", ""], "the prompt is empty"),
        (["generate", "--prompt", "day " * 200], "leaves no room in a text of 32"),
        (["generate", "--prompt", "one day", "--length", "2"], "leaves no room in a text of 2"),
        (["generate", "--prompt", "one \udce9"], "half a surrogate pair"),
        (["generate", "--length", "100001"], "must lie between 1 and 100,000"),
        (["generate", "--length", "0"], "must lie between 1 and 100,000"),
        (["generate", "--num", "0"], "must be at least 1"),
        (["generate", "--num", "200000"], "at most 100,000"),
        (["generate", "--batch", "0"], "--batch = 0: must be at least 1"),
        (["generate", "--precision", "fp8"], "--precision = fp8: must be one of fp32, int8"),
        (["generate", "--provider", "NoSuchProvider"], "NoSuchProvider is not installed"),
        (["generate", "--plugin", "no_such_module"], "plugin 'no_such_module' cannot be imported"),
        (["generate", "--sampler", "picard"], "--sampler = picard: must be one of ddpm, ddim"),
        (["generate", "--steps", "20000"], "--steps = 20000: must lie between 1 and 10,000"),
        (["generate", "--steps", "0"], "--steps = 0: must lie between 1"),
        (["generate", "--eta", "2"], "--eta = 2.0: must lie between"),
        (["generate", "--eta", "nan"], "--eta = nan: should be a finite number"),
        (["generate", "--churn", "-1"], "--churn = -1.0: must lie between"),
        (["generate", "--temperature", "0"], "--temperature = 0.0: must be a number above 0"),
        (["generate", "--temperature", "inf"], "--temperature = inf: should be a finite number"),
        (["generate", "--confidence-threshold", "0"], "--confidence-threshold = 0.0: must lie above 0"),
        (["generate", "--epsilon-cutoff", "1"], "--epsilon-cutoff = 1.0: must be at least 0 and below 1"),
        (["generate", "--check-epsilon", "1"], "--check-epsilon = 1.0: must be at least 0"),
        (["generate", "--check-epsilon", "-0.1"], "--check-epsilon = -0.1: must be at least 0"),
        (["generate", "--check-epsilon", "nan"], "--check-epsilon = nan: should be a finite number"),
        (["generate", "--redraft-steps", "0"], "--redraft-steps = 0: must lie between 1"),
        (["generate", "--restart-time", "0"], "--restart-time = 0.0: must lie above 0"),
        (["generate", "--max-rounds", "0"], "--max-rounds = 0: must be at least 1"),
        (["generate", "--max-rounds", "33"], "is more than a text has positions (32)"),
        (["generate", "--max-rounds", "9", "--length", "8"], "is more than a text has positions (8)"),
        (["generate", "--no-check", "--check-epsilon", "0.1"], "which is off; leave --no-check out"),
        (["generate", "--seed", "-1"], "--seed = -1: must not be negative"),
        (["generate", "--watch"], "--watch draws in a terminal"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line(folder: Path, arguments: list[str], says: str) -> None:
    verb, *rest = arguments
    done = cli(folder, verb, *([] if "--seed" in rest else ["--seed", "1"]), *rest)
    lines = [line for line in done.output.splitlines() if not line.startswith("note: ")]
    assert done.exit_code == 1 and len(lines) == 1 and lines[0].startswith("error: ")
    assert says in lines[0]


def test_texts_and_what_they_took(folder: Path) -> None:
    done = cli(
        folder, "generate", "--num", "2", "--steps", "3", "--seed", "1", "--no-check", "--sampler", "ddim"
    )
    assert len(done.stdout.split("\n\n")) == 2
    assert done.stderr == "3 calls, 0 tokens corrected\n" * 2


def test_json_says_all_that_was_used(folder: Path) -> None:
    done = cli(folder, "generate", "--num", "2", "--steps", "3", "--json")
    answer = json.loads(done.stdout)
    assert [set(text) for text in answer["texts"]] == [{"text", "calls", "corrected", "seconds"}] * 2
    used = answer["settings"]
    assert (used["sampler"], used["steps"], used["check"], used["check_epsilon"]) == ("ddim", 3, True, 0.05)
    assert f"note: --seed {used['seed']}" in done.stderr
    again = cli(folder, "generate", "--num", "2", "--steps", "3", "--json", "--seed", str(used["seed"]))
    texts = [[text["text"] for text in each["texts"]] for each in (answer, json.loads(again.stdout))]
    assert texts[0] == texts[1]


def test_notes_go_to_standard_error(folder: Path) -> None:
    done = cli(folder, "infill", "one zebra [MASK:2] .", "--seed", "1", "--steps", "1", "--max-rounds", "1")
    assert "note: the tokenizer has never seen 'zebra'" in done.stderr and "note" not in done.stdout
    assert "1 steps are far fewer than this model was measured with (4)" in done.stderr


@pytest.mark.parametrize("text", ["- one [MASK:1] .", "-[MASK:2] day", "--seed [MASK:1]"])
def test_a_text_may_begin_with_a_dash(folder: Path, text: str) -> None:
    done = cli(folder, "infill", text, "--seed", "1", "--steps", "2", "--max-rounds", "1")
    assert done.exit_code == 0 and done.stdout.startswith(text.split("[")[0].rstrip())


def test_a_folder_says_what_it_is(folder: Path) -> None:
    about = json.loads(CliRunner().invoke(main, ["info", str(folder), "--json"]).stdout)
    assert about["licence"] == "MIT" and about["can_check"] is True
    assert all(row["different_ids"] == 0 for row in about["parity"]["samplers"])
    lines = CliRunner().invoke(main, ["info", str(folder)]).stdout
    assert f"{about['parameters']:,} parameters" in lines and "step_quantized.onnx" in lines
    assert about["made_from"]["model_sha256"] in lines
    missing = CliRunner().invoke(main, ["info", str(folder / "nowhere")])
    assert missing.exit_code == 1 and "is not an exported model" in missing.output


def test_a_plugin_s_sampler_can_be_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from sunfish.sampling.solvers import SAMPLERS, ddim\nSAMPLERS['mine'] = ddim\n"
    )
    env = {
        **os.environ,
        "SUNFISH_PLUGINS": "mine",
        "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}",
    }
    arguments = ("generate", "--sampler", "mine", "--steps", "2", "--seed", "1", "--no-check", "--json")
    done = in_process(folder, *arguments, env=env, stdout=subprocess.PIPE)
    assert done.returncode == 0 and json.loads(done.stdout)["settings"]["sampler"] == "mine"


def test_output_that_cannot_be_written_is_one_line(folder: Path) -> None:
    fast = ("--seed", "1", "--steps", "2", "--no-check")
    with Path("/dev/full").open("w") as full:
        done = in_process(folder, "generate", *fast, stdout=full)
    assert done.returncode == 1 and done.stderr.decode().count("\n") == 1
    assert b"No space left on device, on standard output" in done.stderr
    env = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    done = in_process(folder, "infill", "三 [MASK:1]", *fast, env=env, stdout=subprocess.PIPE)
    assert done.returncode == 1 and b"output takes cp1252, which has no" in done.stderr
    done = in_process(folder, "infill", "三 [MASK:1]", *fast, "--json", env=env, stdout=subprocess.PIPE)
    assert done.returncode == 0 and json.loads(done.stdout)["texts"][0]["text"].startswith("三")


@pytest.mark.parametrize("closed", ["2>/dev/full", "2>&-"])
def test_notes_that_cannot_be_written_cost_no_text(folder: Path, closed: str) -> None:
    command = f'"$0" -m sunfish generate --model "$1" --steps 2 --no-check {closed}'
    done = subprocess.run(["bash", "-c", command, sys.executable, str(folder)], stdout=subprocess.PIPE)
    assert done.returncode == 0 and done.stdout.strip() and b"note" not in done.stdout


def test_an_interruption_is_no_traceback(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(OnnxBackend, "denoise", interrupt)
    done = cli(folder, "generate")
    assert done.exit_code == 130 and "Traceback" not in done.output


def test_watching_leaves_the_text_and_what_it_took(writer: Sampler) -> None:
    frames, out = (
        list(writer.stream(settings=Settings(steps=3, seed=1, check_epsilon=0.5, max_rounds=3))),
        io.StringIO(),
    )
    watch(frames, out, step_seconds=0.0)
    assert "draft 1, call 1" in out.getvalue() and "check, call 4" in out.getvalue()
    last = frames[-1]
    assert out.getvalue().endswith(
        f"\x1b[J{last.text}\n{last.calls} calls, {last.corrected} tokens corrected\n\n"
    )
    assert "\x1b[9m" in out.getvalue() and "corrected, call 4" in out.getvalue()


def test_a_frame_fits_its_terminal() -> None:
    words = ["once", " anna", " had", " a", " dog", " ."]
    known, rejected = np.array([True, *[False] * 5]), np.array([*[False] * 4, True, False])
    frame = Frame("check", 1, 2, 0, words, np.array([1.0, 0.1, 0.3, 0.7, 0.1, 0.9]), known, rejected)
    lines = [re.sub("\x1b\\[[0-9;]*m", "", line) for line in draw(frame, 10)]
    assert lines == ["once ····", "had a dog", "."]
    assert draw(frame, 80)[0].startswith("\x1b[1monce\x1b[0m\x1b[2m ····\x1b[0m")
    assert "\x1b[9m dog\x1b[0m" in draw(frame, 80)[0]
    assert all(len(line) <= 10 for line in lines)
