# SPDX-License-Identifier: Apache-2.0
"""int8 queries and keys: quantize_rows, and attention on what it gives against fp64."""

import numpy as np
import oracle
import pytest

import kumiko


def quantized(x, **options):
    rows, scale = kumiko.quantize_rows(x, **options)
    return rows, scale, rows.astype(np.float64) * scale[..., None]


def test_quantize_rows(random, dtype):
    x = random.standard_normal((2, 3, 7, 40)).astype(dtype)
    x[0, 1, 2] = 0
    rows, scale, wide = quantized(x)
    assert rows.dtype == np.int8 and rows.shape == x.shape
    assert scale.dtype == np.float32 and scale.shape == x.shape[:3]
    most = np.abs(np.asarray(x, np.float64)).max(-1)
    np.testing.assert_allclose(scale, most / 127, rtol=1e-7)
    assert np.all(np.abs(wide - np.asarray(x, np.float64)) <= 0.5001 * scale[..., None])
    assert not rows[0, 1, 2].any() and scale[0, 1, 2] == 0


def test_quantize_rows_of_bshd_into_tensors(random):
    x = random.standard_normal((2, 7, 3, 40)).astype(np.float32)
    rows, scale = np.empty(x.shape, np.int8), np.empty((2, 3, 7), np.float32)
    result = kumiko.quantize_rows(x, layout="bshd", out=rows, scale=scale)
    assert result[0] is rows and result[1] is scale
    want = kumiko.quantize_rows(x.transpose(0, 2, 1, 3))
    np.testing.assert_array_equal(rows.transpose(0, 2, 1, 3), want[0])
    np.testing.assert_array_equal(scale, want[1])


def test_attention(random, dtype):
    q, q_scale, wide_q = quantized(random.standard_normal((2, 4, 9, 24)).astype(np.float32))
    k, k_scale, wide_k = quantized(random.standard_normal((2, 2, 37, 24)).astype(np.float32))
    v = random.standard_normal((2, 2, 37, 16)).astype(dtype)
    want, want_lse = oracle.attention(wide_q, wide_k, v, causal=True)
    out, lse = kumiko.attention(q, k, v, q_scale=q_scale, k_scale=k_scale, causal=True, precision="int8", return_lse=True)
    assert out.dtype == dtype
    oracle.check(out, want)
    np.testing.assert_allclose(lse, want_lse, atol=1e-5)
    plan = kumiko.Plan(q, k, v, q_scale=q_scale, k_scale=k_scale, causal=True)
    np.testing.assert_array_equal(plan.run(q, k, v, q_scale=q_scale, k_scale=k_scale), out)


def test_scales_broadcast(random):
    q, k = (random.integers(-128, 128, (1, 2, n, 8)).astype(np.int8) for n in (3, 11))
    v = random.standard_normal((1, 2, 11, 8)).astype(np.float32)
    each = kumiko.attention(q, k, v, q_scale=np.full((1, 2, 3), 0.125, np.float32), k_scale=np.full((1, 2, 11), 0.0625, np.float32))
    np.testing.assert_array_equal(
        kumiko.attention(q, k, v, q_scale=np.full((), 0.125, np.float32), k_scale=np.full((2, 1), 0.0625, np.float32)), each)
    want, _ = oracle.attention(q.astype(np.float64) * 0.125, k.astype(np.float64) * 0.0625, v)
    oracle.check(each, want)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"precision": "standard"}, NotImplementedError, "expected int8 or automatic, as q and k are int8"),
        ({"q_scale": np.zeros((1, 2, 4), np.float32)}, ValueError, r"q_scale.shape is \(1, 2, 4\); expected a shape that broadcasts"),
        ({"q_scale": np.zeros((1, 2, 3))}, ValueError, "q_scale.dtype is float64; expected float32"),
        ({"q": np.zeros((1, 2, 3, 8), np.float32)}, ValueError, "k.dtype is int8; expected float32, as in q"),
        ({"q": np.zeros((1, 2, 3, 8), np.int16)}, ValueError, "q.dtype is int16; expected float32, float16 or bfloat16"),
        ({"v": np.zeros((1, 2, 5, 8), np.int8)}, ValueError, "v.dtype is int8; expected float32, float16 or bfloat16"),
    ],
)
def test_errors(arguments, error, sentence):
    call = {"q": np.zeros((1, 2, 3, 8), np.int8), "k": np.zeros((1, 2, 5, 8), np.int8), "v": np.zeros((1, 2, 5, 8), np.float32)}
    with pytest.raises(error, match=sentence):
        kumiko.attention(**(call | arguments))
