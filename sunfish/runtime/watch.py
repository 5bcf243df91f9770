"""Show a text crystallise out of noise in a terminal: dots, faint words, plain words, as the model grows
sure; bold words stay.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterable
from typing import TextIO

from sunfish.runtime.generator import Frame

GUESS, LIKELY = 0.2, 0.6  # probabilities from which a word is shown, and shown in full
BOLD, FAINT, PLAIN, CLEAR_BELOW = (
    "\x1b[1m",
    "\x1b[2m",
    "\x1b[0m",
    "\x1b[J",
)  # no colours: they depend on the terminal's ground


def watch(frames: Iterable[Frame], out: TextIO, step_seconds: float = 0.05) -> None:
    """Draw each frame over the one before, at least `step_seconds` apart; what remains of every text is its
    last frame, plain.
    """
    height = 0
    for frame in frames:
        started = time.monotonic()
        lines = draw(frame, shutil.get_terminal_size().columns)
        up = f"\x1b[{height}A" if height else ""
        if frame.is_last:
            out.write(f"{up}\r{CLEAR_BELOW}{frame.text}\n\n")
            height = 0
        else:
            lines.append(f"step {frame.step} of {frame.num_steps}")
            out.write(f"{up}\r{CLEAR_BELOW}" + "\n".join(lines) + "\n")
            height = len(lines)
        out.flush()
        time.sleep(0.0 if frame.is_last else max(0.0, step_seconds - (time.monotonic() - started)))


def draw(frame: Frame, columns: int) -> list[str]:
    """Return a frame as lines of at most `columns` characters, each word as sure as it looks."""
    lines, room = [""], columns
    for word, probability, stays in zip(frame.words, frame.probability, frame.stays, strict=True):
        visible = word.replace("\n", " ")[:columns]
        if len(visible) > room:
            lines.append("")
            room, visible = columns, visible.lstrip()
        style = BOLD if stays else "" if probability > LIKELY else FAINT
        lines[-1] += style + (visible if probability > GUESS else re.sub(r"\S", "·", visible)) + PLAIN
        room -= len(visible)
    return lines
