# SPDX-License-Identifier: Apache-2.0
"""Pages as FlashInfer lists them (kv_indptr, kv_indices, kv_last_page_len): the bits of a padded block_table."""

import numpy as np
import pytest

import kumiko

PAGE = 16
LENGTHS = [20, 0, 16, 70]


def numbers_of(lengths):
    """FlashInfer's (kv_indptr, kv_last_page_len)."""
    pages = [-(-length // PAGE) for length in lengths]
    last = [length - (count - 1) * PAGE if count else 0 for length, count in zip(lengths, pages)]
    return np.concatenate([[0], np.cumsum(pages)]).astype(np.int32), last


@pytest.fixture
def step(random, dtype):
    """q, k, v, a padded table of 5 pages for each of four sequences; no page holds NaN but those of no sequence."""
    q = random.standard_normal((4, 4, 2, 16)).astype(dtype)
    k, v = (random.standard_normal((22, 2, PAGE, 16)).astype(dtype) for _ in range(2))
    table = random.permutation(22)[:20].reshape(4, 5).astype(np.int32)
    unused = [page for page in range(22) if page not in table]
    k[unused] = v[unused] = np.nan
    return q, k, v, table


def listed(table, lengths):
    indptr, last = numbers_of(lengths)
    indices = np.concatenate([table[b, : indptr[b + 1] - indptr[b]] for b in range(len(lengths))])
    used = [0 if n == 0 else (n - 1) * PAGE + rows for n, rows in zip(np.diff(indptr), last)]
    assert used == list(lengths)
    return indices, indptr, used


@pytest.mark.parametrize("kind", [list, np.int32, np.int64])
def test_lists_have_the_bits_of_a_table(step, kind):
    q, k, v, table = step
    indices, indptr, used = listed(table, LENGTHS)
    wanted = kumiko.attention(q, k, v, causal=True, block_table=table, seqused_k=LENGTHS)
    indptr = indptr.tolist() if kind is list else indptr.astype(kind)
    assert np.array_equal(kumiko.attention(q, k, v, causal=True, block_table=indices, kv_indptr=indptr, seqused_k=used), wanted)
    # One list for two calls: those of the last two sequences begin in its middle.
    part = kumiko.attention(q[2:], k, v, causal=True, block_table=indices, kv_indptr=indptr[2:], seqused_k=used[2:])
    assert np.array_equal(part, wanted[2:])


def test_columns_of_a_bias_are_max_pages(random, step):
    q, k, v, table = step
    indices, indptr, used = listed(table, LENGTHS)
    given = {"block_table": indices, "kv_indptr": indptr, "seqused_k": used}
    bias = random.standard_normal((4, 2, 7 * PAGE)).astype(np.float32)
    wanted = kumiko.attention(q, k, v, bias=bias[:, :, : 5 * PAGE], block_table=table, seqused_k=LENGTHS)
    assert np.array_equal(kumiko.attention(q, k, v, bias=bias[:, :, : 5 * PAGE], **given), wanted)
    assert np.array_equal(kumiko.attention(q, k, v, bias=bias, max_pages=7, **given), wanted)


def test_a_plan_whose_lists_grow(step):
    q, k, v, table = step
    indices, indptr, used = listed(table, [1, 1, 1, 1])
    plan = kumiko.Plan(q, k, v, causal=True, block_table=indices, kv_indptr=indptr, max_pages=5, seqused_k=used)
    for lengths in ([1, 1, 1, 1], [17, 33, 2, 70], LENGTHS, [80, 80, 80, 80]):
        indices, indptr, used = listed(table, lengths)
        wanted = kumiko.attention(q, k, v, causal=True, block_table=table, seqused_k=lengths)
        for again in (False, True):
            plan.update(used, *([indices, indptr] if again else []))
            assert np.array_equal(plan.run(q, k, v, block_table=indices, kv_indptr=indptr), wanted)
    for run, words in (({}, "block_table is None"), ({"block_table": table}, "kv_indptr is None; expected given with block_table, as the plan was made with it"),
                       ({"kv_indptr": indptr}, "block_table is None; expected given, as planned")):
        with pytest.raises(ValueError, match=words):
            plan.run(q, k, v, **run)
    for update, words in (([indices], "kv_indptr is None; expected given with block_table"), ([None, indptr], "kv_indptr is given; expected None"),
                          ([indices, indptr[:-1]], "kv_indptr is 4 integers; expected 5, one more than sequences"),
                          ([indices[:-1], indptr], r"kv_indptr\[4\] is 20; expected at most 19, the length of block_table")):
        with pytest.raises(ValueError, match=words):
            plan.update(used, *update)
    of_rows = kumiko.Plan(q, k, v, block_table=table, seqused_k=LENGTHS)
    with pytest.raises(ValueError, match="kv_indptr is given; expected None, as the plan was made without it"):
        of_rows.update(used, indices, indptr)


def test_no_pages_at_all(step):
    q, k, v, _ = step
    out = kumiko.attention(q, k, v, block_table=np.zeros(0, np.int32), kv_indptr=[0] * 5, seqused_k=[0] * 4)
    assert not out.any()


@pytest.mark.parametrize("change, words", [
    ({"kv_indptr": [0, 2]}, "kv_indptr is 2 integers; expected 5, one more than sequences"),
    ({"kv_indptr": [0, 2, 2, 3, 9]}, r"kv_indptr\[4\] is 9; expected at most 8, the length of block_table"),
    ({"kv_indptr": [-1, 2, 2, 3, 8]}, r"kv_indptr\[0\] is -1; expected 0 or more"),
    ({"kv_indptr": [0, 2, 1, 3, 8]}, r"kv_indptr\[2\] is 1; expected at least kv_indptr\[1\], which is 2"),
    ({"kv_indptr": [0, 1, 2, 3, 8]}, r"kv_indptr\[1\] - kv_indptr\[0\] is 1; expected at least 2 pages of 16 keys"),
    ({"kv_indptr": [0, 200, 2, 3, 8]}, r"kv_indptr\[2\] is 2; expected at least kv_indptr\[1\], which is 200"),
    ({"kv_indptr": None, "max_pages": 5}, r"block_table.shape is \(8,\); expected two dimensions"),
    ({"block_table": np.zeros((4, 5), np.int32), "kv_indptr": None, "max_pages": 5}, "max_pages is 5; expected None, as kv_indptr is None"),
    ({"max_pages": 4, "seqused_k": [20, 0, 16, 60]}, r"kv_indptr\[4\] - kv_indptr\[3\] is 5; expected at most max_pages, which is 4"),
    ({"max_pages": 2**62}, "max_pages is 4611686018427387904; expected pages whose keys can be counted"),
    ({"max_pages": -1}, "max_pages is -1; expected 0.."),
    ({"block_table": None}, "kv_indptr is given; expected None, as block_table is None"),
    ({"block_table": np.zeros((4, 5), np.int32)}, r"block_table.shape is \(4, 5\); expected one dimension, as kv_indptr is given"),
    ({"block_table": np.zeros(8, np.int64)}, "block_table.dtype is int64; expected int32"),
    ({"block_table": np.zeros(16, np.int32)[::2]}, r"block_table.stride\[0\] is 2; expected 1"),
    ({"block_table": np.full(8, 22, np.int32)}, r"block_table\[kv_indptr\[0\] \+ 0\] is 22; expected 0..21"),
])
def test_errors_name_the_argument(change, words):
    q, pages = np.zeros((4, 4, 1, 16), np.float32), np.zeros((22, 2, PAGE, 16), np.float32)
    given = {"block_table": np.zeros(8, np.int32), "kv_indptr": numbers_of(LENGTHS)[0], "seqused_k": LENGTHS}
    kumiko.attention(q, pages, pages, **given)
    with pytest.raises(ValueError, match=words):
        kumiko.attention(q, pages, pages, **{**given, **change})
