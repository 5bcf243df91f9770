"""Where stories go wrong, and what a floor keeps out: by the oracle, which says of every word what may stand there.

At each word of held-out stories it is asked, of all words that a model may draw there, which of them some story goes on with. So what a
floor is worth is known without drawing: how many stories would get a wrong word, and how many right words would never be said. Then texts
are drawn, and those that are not consistent are told apart by what is wrong with them.

python -m benchmarks.mistakes models/denoiser data/shards [--twin models/twins/autoregressive] [--rows 1000] [--texts 2000]
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sunfish.config import check
from sunfish.evaluation.quality import DRAWN, PEOPLE, count_story_words, total_variation
from sunfish.evaluation.subject import Subject
from sunfish.files import write_json
from sunfish.model.twin import read_twin
from sunfish.problems import Problem, report_problems
from sunfish.progress import track
from sunfish.text.lexicon import Grammar
from sunfish.text.stories import judge, options, split_sentences

FLOORS = {"absolute": (0.0, 0.005, 0.007, 0.008, 0.009, 0.01, 0.02, 0.03), "of the likeliest": (0.02, 0.03, 0.05)}
LEAST = 5e-4  # words less probable are not looked at
BATCH = 50

Says = Callable[[Tensor], Tensor]  # ids, (row, pos) -> logits of each given those before it, (row, pos, vocab)


@dataclass(frozen=True, eq=False)
class Asked:
    """All words that a model may say in some stories, one after another, and whom it says the stories are about."""

    place: np.ndarray  # (word,) int: of the word before which it is asked, over all stories
    story: np.ndarray  # (place,) int
    probability: np.ndarray  # (word,)
    likeliest: np.ndarray  # (word,): at its place
    right: np.ndarray  # (word,) bool: some story goes on with it
    people: np.ndarray  # (story, person): at the first person of each
    before_people: np.ndarray  # (story,): the likeliest there


@report_problems
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("denoiser", type=Path)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--twin", type=Path, help="an autoregressive twin, asked the same")
    parser.add_argument("--rows", type=int, default=1000, help="held-out stories")
    parser.add_argument("--texts", type=int, default=2000, help="texts to draw")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/mistakes.json"))
    arguments = parser.parse_args()
    params = check(arguments.params)
    subject = Subject.read(arguments.denoiser, arguments.shards, params["data"], params["evaluate"])
    if subject.grammar is None:
        raise Problem(f"{arguments.shards}: holds other texts than stories of the grammar, of which nobody says what may stand where")
    models = {"sunfish": from_noise(subject), **({"autoregressive": from_words(arguments.twin)} if arguments.twin else {})}
    asked = {name: ask(subject, arguments.rows, name, says) for name, says in models.items()}
    texts = subject.write_texts(arguments.texts, seed=1).words
    results = {
        "held_out": {name: {kind: by_floor(words, kind) for kind in FLOORS} for name, words in asked.items()},
        "texts": dict(Counter(wrong for text in texts if (wrong := what_is_wrong(text, subject.grammar)))),
        "how": {
            "rows": arguments.rows,
            "texts": arguments.texts,
            "temperature": params["evaluate"].temperature,
            "floor": params["evaluate"].floor,
            "weights_sha256": subject.stored.digest(),
        },
    }
    write_json(arguments.out, results)
    for name, kinds in results["held_out"].items():
        print(name, *(f"{kind} {floor}: {row}" for kind, rows in kinds.items() for floor, row in rows.items()), sep="\n  ")
    print(results["texts"])


@cache
def may_stand(words: tuple[str, ...], grammar: Grammar) -> bool:
    """Say whether some story begins with these words: with as many sentences behind them as it takes, whatever they say."""
    closed = [*words] if words[-1] == "." else [*words, "."]
    missing = [number - closed.count(".") for number in grammar.num_sentences]
    breaks = (judge(" ".join([*closed, *["."] * more]), grammar).breaks_at for more in missing if more >= 0)
    return any(at is None or at >= len(words) for at in breaks)


def what_is_wrong(text: str, grammar: Grammar) -> str | None:
    """Return what makes a story inconsistent, or None if nothing does."""
    if judge(text, grammar).consistent:
        return None
    sentences = [" ".join(words) for words in split_sentences(text)]
    pairs = (count_story_words([f"{first} {second}"], grammar)["forms"] for first, second in itertools.pairwise(sentences))
    if any(2 in forms.values() for forms in pairs):
        return "the same form of sentence twice running"
    return "too many sentences" if len(sentences) > max(grammar.num_sentences) else "another"


def from_noise(subject: Subject) -> Says:
    """Return what SunFish says of each word from noise alone, given those before it, as its walk does."""
    denoiser, generator, logsnr = subject.stored.denoiser, torch.Generator().manual_seed(0), float(subject.table().logsnr[0])

    def says(ids: Tensor) -> Tensor:
        x_0, place = denoiser.embed(ids), torch.arange(1, ids.shape[1] + 1).expand(ids.shape)
        noise, level = torch.randn(x_0.shape, generator=generator), torch.full(ids.shape, logsnr)
        nothing = torch.zeros_like(place, dtype=torch.bool)
        logits: Tensor = denoiser.predict_blocks(torch.zeros_like(x_0), x_0, noise, level, nothing, place, place).logits
        return logits

    return says


def from_words(folder: Path) -> Says:
    """Return what an autoregressive twin says of each word, given those before it."""
    twin = read_twin(folder).twin

    def says(ids: Tensor) -> Tensor:
        logits: Tensor = twin(torch.cat((torch.full_like(ids[:, :1], twin.special), ids[:, :-1]), dim=1))
        return logits

    return says


def ask(subject: Subject, num_rows: int, name: str, says: Says) -> Asked:
    """Return what a model may say at each word of held-out stories."""
    assert subject.grammar is not None
    tokenizer = subject.shards.tokenizer
    words = [tokenizer.decode([number]).strip() for number in range(tokenizer.vocab_size)]
    people = [number for number, word in enumerate(words) if word in PEOPLE]
    story, found, persons, tops = list[int](), list[tuple[int, float, float, bool]](), list[np.ndarray](), list[float]()
    for number, (ids, chances) in enumerate(_chances(subject, num_rows, name, says)):
        said = tuple(words[k] for k in ids)
        for at, row in enumerate(chances[: len(ids) + 1]):
            for token in np.flatnonzero(row >= LEAST).tolist():
                if token == tokenizer.end_id:
                    right = judge(" ".join(said[:at]), subject.grammar).consistent
                else:
                    right = may_stand((*said[:at], words[token]), subject.grammar)
                found.append((len(story), float(row[token]), float(row.max()), right))
            story.append(number)
        first = next(at for at, word in enumerate(said) if word in PEOPLE)
        persons.append(chances[first, people])
        tops.append(float(chances[first].max()))
    place, probability, likeliest, right = (np.array(column) for column in zip(*found, strict=True))
    ordered = np.array(persons)[:, np.argsort([words[k] for k in people])]
    return Asked(place, np.array(story), probability, likeliest, right, ordered, np.array(tops))


@torch.no_grad()
def _chances(subject: Subject, num_rows: int, name: str, says: Says) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield held-out stories' ids and how likely each word is at each place, (pos, vocab)."""
    batches = list(subject.held_out.batches(subject.held_out.first(num_rows), BATCH))
    for ids in track(batches, name, "batches", len(batches)):
        yield from zip(subject.cut(ids), says(torch.from_numpy(ids)).softmax(dim=-1).numpy(), strict=True)


def by_floor(asked: Asked, kind: str) -> dict[str, dict[str, float]]:
    """Return, by the floor, how many stories would get a wrong word, right words a story never said, and how far people are off."""
    num = asked.story[-1] + 1
    rows = {}
    for floor in FLOORS[kind]:
        kept = asked.probability >= _least(asked.likeliest, floor, kind)
        share = np.bincount(asked.place, asked.probability * kept)
        wrong = np.bincount(asked.place, asked.probability * (kept & ~asked.right)) / share
        whole = np.exp(np.bincount(asked.story, np.log1p(-wrong)))
        people = np.where(asked.people >= _least(asked.before_people, floor, kind)[:, None], asked.people, 0.0)
        rows[f"{floor:g}"] = {
            "stories_with_a_wrong_word": float(1.0 - whole.mean()),
            "right_words_cut_per_story": float((asked.probability * (asked.right & ~kept)).sum() / num),
            "people_total_variation": _off(people),
        }
    return rows


def _least(likeliest: np.ndarray, floor: float, kind: str) -> np.ndarray:
    """Return the least probable word that may be drawn (`sunfish.model.step.draw`), or the least by a share of the likeliest."""
    return np.minimum(likeliest, floor) if kind == "absolute" else likeliest * floor


def _off(people: np.ndarray) -> float:
    """Return how far the people that stories are said to be about are from the grammar's, (story, person) in the alphabet's order."""
    ours = (people / people.sum(axis=1, keepdims=True)).mean(axis=0)
    drawn: dict[Any, float] = {option.words[0]: option.probability for option in options(DRAWN["people"], {})}
    return total_variation(dict(zip(sorted(PEOPLE), ours.tolist(), strict=True)), drawn)


if __name__ == "__main__":
    main()
