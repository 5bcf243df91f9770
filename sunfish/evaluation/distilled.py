"""What a distilled guess is worth: the same walks with it and without, by how many calls they may take."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sunfish.evaluation.subject import Numbers, Subject, Texts
from sunfish.model.guess import Guess
from sunfish.model.score import Score
from sunfish.model.store import StoredDenoiser
from sunfish.pictures import ACCENT, INK, picture
from sunfish.sections.distill import Section


def measure_guess(subject: Subject, guess: Guess, section: Section) -> dict[str, dict[str, Numbers]]:
    """Return quality by calls at most: of the walk by itself (`teacher`) and of the walk that begins with the guess (`distilled`).

    Beside what is said of all texts stands the perplexity that the teacher gives them; it compares where entropies are alike.
    """
    device = next(subject.stored.denoiser.parameters()).device
    subjects = {"teacher": subject, "distilled": dataclasses.replace(subject, guess=guess.to(device))}
    measured: dict[str, dict[str, Numbers]] = {}
    for name, walked in subjects.items():
        rows = measured.setdefault(name, {})
        for steps in section.measured_steps:
            texts = walked.told(num_steps=steps).write_texts(section.samples, seed=steps)
            rows[str(steps)] = {**walked.judge(texts), "perplexity_by_teacher": perplexity(subject.stored, texts)}
    return measured


@torch.no_grad()
def perplexity(stored: StoredDenoiser, texts: Texts) -> float:
    """Return exp of the mean -log p(token | text before it), all texts' tokens and their ends but for the first together."""
    score, nats, count = Score(stored.denoiser), 0.0, 0
    groups: dict[int, list[list[int]]] = {}
    for ids in texts.ids:
        groups.setdefault(len(ids) + 1, []).append([*ids, stored.end_id])
    for length, rows in groups.items():
        nats += float(score(torch.from_numpy(np.array(rows)).to(next(stored.denoiser.parameters()).device)).double().sum())
        count += len(rows) * (length - 1)
    return math.exp(nats / max(count, 1))


def draw_guess(path: Path, measured: dict[str, dict[str, Numbers]], key: str) -> None:
    """Draw quality by calls at most, with the guess and without."""

    def draw(axes: Any) -> None:
        for (name, rows), color in zip(measured.items(), (INK, ACCENT), strict=True):
            axes.plot([int(steps) for steps in rows], [row[key] for row in rows.values()], "o-", color=color, label=name)
        ticks = [int(steps) for steps in next(iter(measured.values()))]
        axes.set(xlabel="calls a text may take", ylabel=key.replace("_", " "), xscale="log", ylim=(-0.02, 1.02))
        axes.set_xticks(ticks, [str(n) for n in ticks])
        axes.minorticks_off()
        axes.legend(frameon=False)

    picture(path, draw, "The same walk with a distilled guess and without")
