"""Texts of more tokens than a row has: written row after row, each given the end of the one before."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sunfish.runtime.batches import Written
from sunfish.runtime.prompts import Row, given_row

SampleRows = Callable[[list[Row], list[np.random.Generator]], list[Written]]


def write_long(
    sample: SampleRows,
    begun: list[int],
    length: int,
    longest: int,
    end_id: int,
    rngs: list[np.random.Generator],
) -> list[Written]:
    """Return texts of at most `length` tokens that begin with `begun`, in rows of at most `longest`.

    Of each row the last half of a row's length is given to the next one, until the model ends the text.
    """
    texts = [Written(np.array(begun, np.int64), 0, 0, 0.0) for _ in rngs]
    going = list(range(len(rngs)))
    while going:
        given = [texts[k].ids[-(longest // 2) :].tolist() for k in going]
        rooms = [
            min(longest, len(ids) + length - len(texts[k].ids)) for k, ids in zip(going, given, strict=True)
        ]
        rows = [given_row(ids, room) for ids, room in zip(given, rooms, strict=True)]
        pieces = sample(rows, [rngs[k] for k in going])
        for k, ids, piece in zip(going, given, pieces, strict=True):
            texts[k] = _append(texts[k], piece, len(ids), end_id)
        ended = {k for k, piece in zip(going, pieces, strict=True) if (piece.ids == end_id).any()}
        going = [k for k in going if k not in ended and len(texts[k].ids) < length]
    return texts


def _append(text: Written, piece: Written, num_given: int, end_id: int) -> Written:
    is_before_end = np.cumsum(piece.ids == end_id) == 0
    ids = np.concatenate((text.ids, piece.ids[is_before_end][num_given:]))
    calls, corrected = text.calls + piece.calls, text.corrected + piece.corrected
    return Written(ids, calls, corrected, text.seconds + piece.seconds)
