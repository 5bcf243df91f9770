"""Show a text come out of the noise in a terminal: dots, faint, plain, and bold words, which stay."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterable
from typing import TextIO

from sunfish.runtime.frames import Frame

DRAFTED, LIKELY = 0.2, 0.6  # probabilities from which a word is shown, and shown in full
# no colours: they depend on the terminal's ground
BOLD, FAINT, STRUCK, PLAIN, CLEAR_BELOW = (f"\x1b[{code}" for code in ("1m", "2m", "9m", "0m", "J"))
SAYS = {
    "denoise": "draft {draft}, call {calls}",
    "check": "check, call {calls}",
    "correct": "corrected, call {calls}",
}
SLOWER = {"denoise": 1, "check": 8, "correct": 8}  # times as long: a reader looks for the word


def watch(frames: Iterable[Frame], out: TextIO, step_seconds: float = 0.05) -> None:
    """Draw each frame over the one before, `step_seconds` apart at least; leave the last one, plain."""
    height = 0
    for frame in frames:
        started = time.monotonic()
        lines = draw(frame, shutil.get_terminal_size().columns)
        lines.append(SAYS[frame.kind].format(**vars(frame)))
        up = f"\x1b[{height}A" if height else ""
        out.write(f"{up}\r{CLEAR_BELOW}" + "\n".join(lines) + "\n")
        height = len(lines)
        out.flush()
        time.sleep(max(0.0, SLOWER[frame.kind] * step_seconds - (time.monotonic() - started)))
        if frame.is_last:
            took = summary(frame.calls, frame.corrected)
            out.write(f"\x1b[{height}A\r{CLEAR_BELOW}{frame.text}\n{took}\n\n")
            height = 0


def summary(calls: int, corrected: int) -> str:
    """Return what a text took, in words."""
    tokens = "token" if corrected == 1 else "tokens"
    return f"{calls} {'call' if calls == 1 else 'calls'}, {corrected} {tokens} corrected"


def draw(frame: Frame, columns: int) -> list[str]:
    """Return a frame as lines of at most `columns` characters, each word as sure as it looks."""
    lines, room = [""], columns
    words = zip(frame.words, frame.probability, frame.known, frame.rejected, strict=True)
    for word, probability, known, rejected in words:
        visible = word.replace("\n", " ")[:columns]
        if len(visible) > room:
            lines.append("")
            room, visible = columns, visible.lstrip()
        if not (rejected or probability > DRAFTED):
            visible = re.sub(r"\S", "·", visible)
        lines[-1] += _style(probability, known, rejected) + visible + PLAIN
        room -= len(visible)
    return lines


def _style(probability: float, known: bool, rejected: bool) -> str:
    if rejected:
        return STRUCK
    return BOLD if known else "" if probability > LIKELY else FAINT
