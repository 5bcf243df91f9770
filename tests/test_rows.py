"""How documents become rows, and in which order epochs visit them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sunfish.errors import UserError
from sunfish.text.batches import RowDataset
from sunfish.text.layouts import cut_documents
from sunfish.text.order import BatchOrder, EvenOrder, Shuffle
from sunfish.text.shards import Shards


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(1, 12))
def test_rows_partition_the_documents(lengths: list[int], row_length: int) -> None:
    ends = np.cumsum(lengths).astype("<u8")
    starts, sizes = cut_documents(ends, row_length)
    assert [i for s, n in zip(starts, sizes, strict=True) for i in range(s, s + n)] == list(
        range(int(ends[-1]))
    )
    assert all(n <= row_length for n in sizes) and len(starts) == sum(-(-n // row_length) for n in lengths)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=60), st.integers(1, 9), st.integers(0, 5))
def test_an_epoch_visits_rows_once_in_batches_of_like_length(
    lengths: list[int], batch_rows: int, seed: int
) -> None:
    order = BatchOrder(np.array(lengths) * 4, batch_rows, seed)
    count = order.batches_per_epoch
    epoch = [order.indices(step) for step in range(count)]
    visits = np.bincount(np.concatenate(epoch), minlength=len(lengths))
    assert all(len(batch) == batch_rows for batch in epoch) and count == max(1, len(lengths) // batch_rows)
    assert visits.max() == (1 if len(lengths) >= batch_rows else -(-batch_rows // len(lengths)))
    spans = sorted((min(lengths[i] for i in batch), max(lengths[i] for i in batch)) for batch in epoch)
    assert all(
        a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False)
    )  # one batch's lengths do not mix with another's
    again = BatchOrder(np.array(lengths) * 4, batch_rows, seed)
    assert np.array_equal(
        again.indices(3 * count), order.indices(3 * count)
    )  # any step, without those before it


def test_rows_of_documents_are_as_long_as_the_document(shards: Shards, params: dict) -> None:
    rows = RowDataset(shards, "train", params["data"])
    every = np.arange(len(rows))
    length, num_tokens = rows.length(every), rows.num_tokens(every)
    assert (length % 4 == 0).all() and (length - num_tokens < 4).all() and len(set(length)) > 3
    assert (
        rows.tokens_in_rows() == num_tokens.sum() == shards.num_tokens("train")
        and rows.num_positions() == length.sum()
    )
    for ids in rows.batches(rows.first(50), 7):
        assert (
            len(ids) <= 7
            and (ids[:, -1] == shards.end_id).all()
            and not (ids[:, -5:] == shards.end_id).all(axis=1).any()
        )
    assert sum(len(ids) for ids in rows.batches(rows.first(50), 7)) == 50


def test_too_little_held_out_text_is_said(shards: Shards, params: dict) -> None:
    with pytest.raises(UserError, match="does not fill one row"):
        RowDataset(
            shards,
            "heldout",
            dataclasses.replace(params["data"], rows="stream", row_length=8_000, row_multiple=1),
        )


def test_rows_of_a_stream_are_its_tokens_in_order(shards: Shards, params: dict) -> None:
    rows = RowDataset(
        shards, "train", dataclasses.replace(params["data"], rows="stream", row_length=32, row_multiple=1)
    )
    expected = np.concatenate(
        [shard.tokens[: len(shard.tokens) // 32 * 32] for shard in shards.split("train")]
    )
    assert np.array_equal(rows.read(np.arange(len(rows))).ravel(), expected)
    assert rows.tokens_in_rows() == rows.num_positions() == len(expected) > 0.99 * shards.num_tokens("train")


@settings(max_examples=50)
@given(st.integers(1, 3000), st.integers(0, 2**32), st.integers(0, 5))
def test_a_shuffle_is_a_permutation_and_any_part_of_it_is_had_alone(size: int, seed: int, epoch: int) -> None:
    shuffle = Shuffle(size, (seed, epoch))
    whole = shuffle(np.arange(size))
    assert np.array_equal(np.sort(whole), np.arange(size))
    assert np.array_equal(shuffle(np.arange(size // 2, size)), whole[size // 2 :])


def test_a_shuffle_mixes() -> None:
    whole = Shuffle(100_000, (0, 0))(np.arange(100_000))
    assert abs(np.corrcoef(np.arange(100_000), whole)[0, 1]) < 0.01 and (np.diff(whole) == 1).mean() < 0.001
    assert (whole == Shuffle(100_000, (0, 1))(np.arange(100_000))).mean() < 0.001


@given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 5))
def test_an_epoch_of_even_rows_visits_each_once(num_rows: int, batch_rows: int, seed: int) -> None:
    order = EvenOrder(num_rows, batch_rows, seed)
    epoch = np.concatenate([order.indices(step) for step in range(order.batches_per_epoch)])
    visits = np.bincount(epoch, minlength=num_rows)
    assert len(epoch) == order.batches_per_epoch * batch_rows
    assert visits.max() == (1 if num_rows >= batch_rows else -(-batch_rows // num_rows))
