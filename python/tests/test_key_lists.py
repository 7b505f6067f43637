# SPDX-License-Identifier: Apache-2.0
"""Tree masks and lists of key blocks: the bits of the boolean mask that says the same."""

import numpy as np
import pytest

import kumiko

ROWS, KEYS = 8, 16  # of a block


def lists_of(shown):
    """(indptr, indices) of [query blocks, key blocks] of bool, or of [heads, ...]."""
    indices = [np.flatnonzero(row) for row in shown.reshape(-1, shown.shape[-1])]
    counts = np.cumsum([0] + [len(row) for row in indices]).astype(np.int32)
    if shown.ndim == 3:
        counts = np.stack([counts[h * shown.shape[1] : (h + 1) * shown.shape[1] + 1] for h in range(shown.shape[0])])
    return counts, np.concatenate(indices).astype(np.int32)


def squares(shown, q_len, kv_len):
    return np.repeat(np.repeat(shown, ROWS, -2)[..., :q_len, :], KEYS, -1)[..., :kv_len]


@pytest.fixture
def tensors(random, dtype):
    return [random.standard_normal(shape).astype(dtype) for shape in ((2, 4, 13, 24), (2, 2, 70, 24), (2, 2, 70, 20))]


def test_trees(random, tensors):
    q, k, v = tensors
    bits = random.random((2, 13, 13)) < 0.5
    bits |= np.eye(13, dtype=bool)
    mask = np.concatenate([np.ones((2, 1, 13, 57), bool), bits[:, None]], -1)
    wanted = kumiko.attention(q, k, v, mask=mask)
    packed = np.packbits(bits.reshape(26, 13), axis=-1, bitorder="little")
    assert np.array_equal(kumiko.attention(q, k, v, tree_mask=packed), wanted)
    wider = np.full((26, 5), 255, np.uint8)
    wider[:, :2] = packed
    assert np.array_equal(kumiko.attention(q, k, v, tree_mask=wider), wanted)
    plan = kumiko.Plan(q, k, v, tree_mask=wider)
    assert np.array_equal(plan.run(q, k, v, tree_mask=wider), wanted)
    # Packed sequences of 13 and 5 queries.
    flat = np.concatenate([q[0], q[1][:, :5]], 1)[None]
    got = kumiko.attention(
        flat, np.concatenate([k[0], k[1]], 1)[None], np.concatenate([v[0], v[1]], 1)[None],
        cu_seqlens_q=[0, 13, 18], cu_seqlens_k=[0, 70, 140], tree_mask=packed[:18],
    )  # fmt: skip
    small = np.concatenate([np.ones((5, 65), bool), bits[1, :5, :5]], -1)
    assert np.array_equal(got[0, :, :13], wanted[0])
    assert np.array_equal(got[0, :, 13:], kumiko.attention(q[1:, :, :5], k[1:], v[1:], mask=small)[0])


@pytest.mark.parametrize("heads", [None, 4])
def test_lists(random, tensors, heads):
    q, k, v = tensors
    shown = random.random((2, 5) if heads is None else (heads, 2, 5)) < 0.5
    indptr, indices = lists_of(np.concatenate([shown, shown], -2))  # those of the second sequence are the same
    sizes = {"bsr_rows": ROWS, "bsr_keys": KEYS}
    wanted = kumiko.attention(q, k, v, mask=squares(shown, 13, 70))
    assert np.array_equal(kumiko.attention(q, k, v, bsr_indptr=indptr, bsr_indices=indices, **sizes), wanted)
    plan = kumiko.Plan(q, k, v, bsr_indptr=indptr, bsr_indices=indices, **sizes)
    assert "lists of key blocks of 8 x 16" in plan.explain()
    assert np.array_equal(plan.run(q, k, v, bsr_indptr=indptr, bsr_indices=indices), wanted)
    with pytest.raises(ValueError, match="bsr_indptr is None; expected given, as planned"):
        plan.run(q, k, v)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tree_mask": np.zeros((26, 2), np.int8)}, "tree_mask.dtype is int8; expected uint8"),
        ({"tree_mask": np.zeros(52, np.uint8)}, "tree_mask.shape is "),
        ({"tree_mask": np.zeros((25, 2), np.uint8)}, r"tree_mask.shape\[0\] is 25; expected at least 26"),
        ({"tree_mask": np.zeros((26, 1), np.uint8)}, r"tree_mask.shape\[1\] is 1; expected at least 2 bytes"),
        ({"tree_mask": np.zeros((26, 4), np.uint8)[:, ::2]}, r"tree_mask.stride\[1\] is 2; expected 1"),
        ({"tree_mask": np.broadcast_to(np.zeros(2, np.uint8), (26, 2))}, r"tree_mask.stride\[0\] is 0; expected at least 2"),
        ({"bsr_indptr": np.zeros(5, np.int32)}, "bsr_indices is None; expected given, as the other is"),
        ({"bsr_rows": 8}, "bsr_rows is 8; expected 0, as bsr_indptr is None"),
        ({"bsr_indptr": np.zeros(5, np.int64), "bsr_indices": np.zeros(1, np.int32)}, "bsr_indptr.dtype is int64; expected int32"),
        ({"bsr_indptr": np.zeros(5, np.int32), "bsr_indices": np.zeros(1, np.uint32)}, "bsr_indices.dtype is uint32; expected int32"),
        ({"bsr_indptr": np.zeros(5, np.int32), "bsr_indices": np.zeros(1, np.int32)}, "bsr_rows is 0; expected 1 or more"),
        ({"bsr_indptr": np.zeros(4, np.int32), "bsr_indices": np.zeros(1, np.int32), "bsr_rows": 8, "bsr_keys": 8},
         r"bsr_indptr.shape\[0\] is 4; expected 5"),
        ({"bsr_indptr": np.zeros((3, 5), np.int32), "bsr_indices": np.zeros(1, np.int32), "bsr_rows": 8, "bsr_keys": 8},
         r"bsr_indptr.shape\[0\] is 3; expected 4, as q_heads"),
        ({"bsr_indptr": np.full(5, 2, np.int32), "bsr_indices": np.zeros(1, np.int32), "bsr_rows": 8, "bsr_keys": 8},
         "bsr_indptr's last number is 2; expected at most 1"),
        ({"bsr_indptr": np.zeros(5, np.int32), "bsr_indices": np.zeros((1, 1), np.int32), "bsr_rows": 8, "bsr_keys": 8},
         "bsr_indices.shape is "),
        ({"bsr_indptr": np.arange(5, dtype=np.int32), "bsr_indices": np.full(4, 9, np.int32), "bsr_rows": 8, "bsr_keys": 8},
         r"bsr_indices\[0\] is 9; expected 0..8, the blocks of kv_len"),
    ],
)  # fmt: skip
def test_errors(tensors, arguments, message):
    with pytest.raises(ValueError, match=message):
        kumiko.attention(*tensors, **arguments)
