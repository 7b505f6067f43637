# SPDX-License-Identifier: Apache-2.0
"""softmax_pv, fused_gemm and merge_states against fp64."""

import numpy as np
import oracle
import pytest

import kumiko


def repeat(x, heads):
    return np.repeat(np.asarray(x, np.float64), heads // x.shape[1], axis=1)


@pytest.mark.parametrize("score_type", [np.float32, np.int32])
def test_softmax_pv(random, dtype, score_type):
    scores = (random.standard_normal((2, 4, 9, 37)) * 8).astype(score_type)
    v = random.standard_normal((2, 2, 37, 16)).astype(dtype)
    lengths = [37, 11]
    out, lse = kumiko.softmax_pv(scores, v, scale=0.25, causal=True, seqused_k=lengths, window=(20, None), return_lse=True)
    seen = oracle.visible((2, 9, 37), causal=True, window=(20, -1), seqused_k=lengths)
    weights, expected_lse = oracle.softmax(np.where(seen, scores * 0.25, -np.inf))
    assert out.dtype == dtype
    oracle.check(out, weights @ repeat(v, 4))
    np.testing.assert_allclose(lse, expected_lse, atol=2e-6)


def test_softmax_pv_of_bshd_into_out(random):
    scores = random.standard_normal((2, 4, 9, 37)).astype(np.float32)
    v = random.standard_normal((2, 37, 2, 16)).astype(np.float32)
    out = np.empty((2, 9, 4, 16), np.float32)
    assert kumiko.softmax_pv(scores, v, layout="bshd", out=out) is out
    oracle.check(out.transpose(0, 2, 1, 3), oracle.softmax(scores.astype(np.float64))[0] @ repeat(v.transpose(0, 2, 1, 3), 4))


def test_fused_gemm(tensors, dtype):
    q, k, v = (x * np.asarray(0.25, dtype) for x in tensors(dtype=dtype))
    expected = np.asarray(q, np.float64) @ repeat(k, 4).swapaxes(-1, -2) * 0.5
    seen = oracle.visible((2, 9, 37), causal=True, seqused_k=[37, 11], alignment="top_left")
    out = kumiko.fused_gemm(q, k, v, scale=0.5, causal=True, causal_alignment="top_left", seqused_k=[37, 11])
    oracle.check(out, np.where(seen, expected, 0) @ repeat(v, 4))


def test_products_scale_of_zero_is_zero(tensors, random):
    q, k, v = tensors()
    assert np.all(kumiko.fused_gemm(q, k, v, scale=0.0) == 0)
    scores = random.standard_normal((2, 4, 9, 37)).astype(np.float32)
    oracle.check(kumiko.softmax_pv(scores, v, scale=0.0), np.broadcast_to(repeat(v, 4).mean(-2, keepdims=True), (2, 4, 9, 32)))


@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
def test_merged_parts_are_the_whole(tensors, dtype, layout):
    q, k, v = tensors(dtype=dtype)
    turn = (lambda x: x) if layout == "bhsd" else lambda x: x.transpose(0, 2, 1, 3)
    parts = [kumiko.attention(turn(q), turn(k[:, :, a:b]), turn(v[:, :, a:b]), layout=layout, return_lse=True) for a, b in ((0, 12), (12, 20), (20, 37))]
    out, lse = kumiko.merge_states(parts, layout=layout)
    expected, expected_lse = oracle.attention(q, k, v)
    assert out.dtype == dtype
    oracle.check(turn(out), expected)
    np.testing.assert_allclose(lse, expected_lse, atol=2e-2 if dtype != np.float32 else 2e-6)


def test_merging_in_place(tensors):
    q, k, v = tensors()
    a, b = (kumiko.attention(q, x, y, return_lse=True) for x, y in ((k[:, :, :20], v[:, :, :20]), (k[:, :, 20:], v[:, :, 20:])))
    expected = kumiko.merge_states([a, b])
    out, lse = kumiko.merge_states([a, b], out=a[0], lse=a[1])
    assert out is a[0] and lse is a[1]
    assert np.array_equal(out, expected[0]) and np.array_equal(lse, expected[1])


@pytest.mark.parametrize("states, error, words", [
    ([], ValueError, "states is empty"),
    (None, TypeError, "states is None; expected a list of pairs"),
    ([3], TypeError, r"states\[0\] is 3 \(int\); expected a pair"),
    ([(1, 2, 3)], ValueError, r"states\[0\] is of length 3"),
    ([(np.zeros((1, 1, 2, 4), np.float32), None)], TypeError, r"states\[0\].lse is None"),
    ([(np.zeros((1, 1, 2, 4), np.float32), np.zeros((1, 1, 3), np.float32))], ValueError, r"states\[0\].lse.shape\[2\] is 3; expected 2"),
    ([(np.zeros((1, 1, 2, 4), np.float32), np.zeros((1, 1, 2), np.float64))], ValueError, r"states\[0\].lse.dtype is float64"),
    ([(np.zeros((1, 1, n, 4), np.float32), np.zeros((1, 1, n), np.float32)) for n in (2, 3)], ValueError, r"states\[1\].out.shape\[2\] \(seq\) is 3; expected 2"),
])
def test_errors_of_merging_name_the_state(states, error, words):
    with pytest.raises(error, match=words):
        kumiko.merge_states(states)


@pytest.mark.parametrize("scores, words", [
    (np.zeros((1, 1, 2, 3), np.float16), "scores.dtype is float16; expected float32 or int32"),
    (np.zeros((1, 2, 3), np.float32), r"scores.shape is \(1, 2, 3\); expected four"),
    (np.zeros((1, 1, 2, 4), np.float32), r"v.shape\[2\]"),
])
def test_errors_of_scores(scores, words):
    with pytest.raises(ValueError, match=words):
        kumiko.softmax_pv(scores, np.zeros((1, 1, 3, 8), np.float32))
