# SPDX-License-Identifier: Apache-2.0
"""A server's step: packed sequences and keys in pages give the bits of a call for each sequence."""

import numpy as np
import pytest

import kumiko

QUERIES, KEYS = [3, 0, 11, 1], [20, 5, 11, 70]


def starts(lengths, kind=np.int32):
    return np.concatenate([[0], np.cumsum(lengths)]).astype(kind)


@pytest.fixture
def sequences(random, dtype):
    """q, k, v of each sequence, [1, heads, length, dim]."""
    return [[random.standard_normal((1, heads, length, 16)).astype(dtype) for heads, length in ((4, q_len), (2, kv_len), (2, kv_len))]
            for q_len, kv_len in zip(QUERIES, KEYS)]


def packed(sequences, part):
    return np.concatenate([tensors[part] for tensors in sequences], axis=2)


def in_pages(random, sequences, page_size):
    """(k, v, block_table, seqused_k): pages in a random order, the entries behind a sequence's last page wrong."""
    needed = [-(-length // page_size) for length in KEYS]
    order = iter(random.permutation(sum(needed) + 2))
    table = np.full((len(KEYS), max(needed)), -1, np.int32)
    k, v = (np.full((sum(needed) + 2, 2, page_size, 16), np.nan, sequences[0][1].dtype) for _ in range(2))
    for b, (_, keys, values) in enumerate(sequences):
        for i in range(needed[b]):
            table[b, i] = next(order)
            rows = slice(i * page_size, (i + 1) * page_size)
            k[table[b, i], :, : keys[0, :, rows].shape[1]] = keys[0, :, rows]
            v[table[b, i], :, : keys[0, :, rows].shape[1]] = values[0, :, rows]
    return k, v, table, KEYS


def expected(sequences, **options):
    found = [kumiko.attention(*tensors, return_lse=True, **options) for tensors in sequences]
    return np.concatenate([out for out, _ in found], axis=2), np.concatenate([lse for _, lse in found], axis=2)


@pytest.mark.parametrize("kind", [list, np.int32, np.int64])
def test_packed_sequences(sequences, kind):
    cu_q, cu_k = ([int(n) for n in starts(lengths)] if kind is list else starts(lengths, kind) for lengths in (QUERIES, KEYS))
    out, lse = kumiko.attention(*(packed(sequences, part) for part in range(3)), causal=True, cu_seqlens_q=cu_q, cu_seqlens_k=cu_k, return_lse=True)
    wanted = expected(sequences, causal=True)
    assert np.array_equal(out, wanted[0]) and np.array_equal(lse, wanted[1])


def test_log_sum_exp_by_position_and_head(sequences):
    tensors = [packed(sequences, part) for part in range(3)]
    lse = np.zeros((sum(QUERIES), 4), np.float32)
    kumiko.attention(*tensors, causal=True, cu_seqlens_q=starts(QUERIES), cu_seqlens_k=starts(KEYS), lse=lse.T[None])
    assert np.array_equal(lse.T[None], expected(sequences, causal=True)[1])


@pytest.mark.parametrize("layout, axes", [("bhsd", (0, 1, 2, 3)), ("bshd", (0, 2, 1, 3))])
def test_keys_in_pages(random, sequences, layout, axes):
    k, v, table, used = in_pages(random, sequences, 8)
    tensors = [np.ascontiguousarray(x.transpose(axes)) for x in (packed(sequences, 0), k, v)]
    out = kumiko.attention(*tensors, causal=True, cu_seqlens_q=starts(QUERIES), block_table=table, seqused_k=used, layout=layout)
    assert np.array_equal(out.transpose(axes), expected(sequences, causal=True)[0])
    wide = np.zeros((len(KEYS), table.shape[1] + 3), np.int32)
    wide[:, :-3] = table
    assert np.array_equal(out, kumiko.attention(*tensors, causal=True, cu_seqlens_q=starts(QUERIES), block_table=wide[:, :-3], seqused_k=used, layout=layout))


def test_terms_of_packed_sequences(random, sequences):
    tensors = [packed(sequences, part) for part in range(3)]
    slopes = random.random((len(KEYS), 4)).astype(np.float32)
    bias = random.standard_normal((4, sum(QUERIES), max(KEYS))).astype(np.float32)
    out = kumiko.attention(*tensors, cu_seqlens_q=starts(QUERIES), cu_seqlens_k=starts(KEYS), bias=bias, alibi_slopes=slopes)
    first = starts(QUERIES)
    wanted = [kumiko.attention(*own, bias=bias[:, first[b]:first[b + 1], :KEYS[b]], alibi_slopes=slopes[b]) for b, own in enumerate(sequences)]
    assert np.array_equal(out, np.concatenate(wanted, axis=2))


def test_a_plan_of_a_step(random, sequences):
    q = packed(sequences, 0)
    k, v, table, used = in_pages(random, sequences, 16)
    plan = kumiko.Plan(q, k, v, causal=True, cu_seqlens_q=starts(QUERIES), block_table=table, seqused_k=[1] * len(KEYS))
    plan.update(used)
    assert np.array_equal(plan.run(q, k, v, block_table=table), expected(sequences, causal=True)[0])
    turned = len(k) - 1 - np.where(table < 0, 0, table)
    assert np.array_equal(plan.run(q, k[::-1].copy(), v[::-1].copy(), block_table=turned.astype(np.int32)), expected(sequences, causal=True)[0])
    with pytest.raises(ValueError, match="block_table"):
        plan.run(q, k, v)


PAGES = np.zeros((6, 2, 8, 16), np.float32)
ROWS = np.zeros((1, 4, 5, 16), np.float32)


@pytest.mark.parametrize("change, words", [
    ({"cu_seqlens_q": [0]}, "cu_seqlens_q is 1 integers; expected 2 or more"),
    ({"cu_seqlens_q": [0, 2, 6]}, r"cu_seqlens_q\[2\] is 6; expected at most q.shape\[2\], which is 5"),
    ({"cu_seqlens_q": [0, 2, 1]}, r"cu_seqlens_q\[2\] is 1; expected at least"),
    ({"cu_seqlens_q": None, "seqused_k": [9]}, r"block_table.shape\[0\] is 2; expected 1, one row for each sequence"),
    ({"seqused_k": [1]}, "seqused_k is 1 integers; expected 2"),
    ({"seqused_k": None}, "seqused_k is None"),
    ({"cu_seqlens_k": [0, 1]}, "cu_seqlens_k is 2 integers; expected 3"),
    ({"cu_seqlens_k": [0, 1, 2]}, "cu_seqlens_k is given; expected None"),
    ({"block_table": np.zeros((2, 3), np.int64)}, "block_table.dtype is int64; expected int32"),
    ({"block_table": np.zeros(3, np.int32)}, r"block_table.shape is \(3,\); expected two"),
    ({"block_table": np.zeros((2, 6), np.int32)[:, ::2]}, r"block_table.stride\[1\] is 2; expected 1"),
    ({"block_table": np.broadcast_to(np.zeros(3, np.int32), (2, 3))}, r"block_table.stride\[0\] is 0; expected at least max_pages, which is 3"),
    ({"block_table": np.full((2, 3), 6, np.int32)}, r"block_table\[0, 0\] is 6; expected 0..5"),
    ({"kv_domains": [0, 0]}, "kv_domains is 2 integers; expected 4"),
])
def test_errors_name_the_argument(change, words):
    given = {"cu_seqlens_q": [0, 2, 5], "block_table": np.zeros((2, 3), np.int32), "seqused_k": [9, 20]}
    kumiko.attention(ROWS, PAGES, PAGES, **given)
    with pytest.raises(ValueError, match=words):
        kumiko.attention(ROWS, PAGES, PAGES, **{**given, **change})
