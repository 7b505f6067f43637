# SPDX-License-Identifier: Apache-2.0
"""kumiko.attention against fp64: every argument."""

import ml_dtypes
import numpy as np
import oracle
import pytest

import kumiko


@pytest.mark.parametrize("v_dim", [None, 17])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_types_and_groups(tensors, dtype, kv_heads, v_dim):
    q, k, v = tensors(kv_heads=kv_heads, v_dim=v_dim, dtype=dtype)
    out = kumiko.attention(q, k, v)
    assert isinstance(out, np.ndarray) and out.dtype == dtype
    oracle.check(out, oracle.attention(q, k, v)[0])


@pytest.mark.parametrize("q_len, kv_len", [(9, 37), (37, 9), (1, 37)])
@pytest.mark.parametrize("alignment", ["bottom_right", "top_left"])
@pytest.mark.parametrize("causal, window", [(True, None), (False, (3, 2)), (False, (None, 1)), (True, (4, -1)), (False, [2, None])])
def test_causal_and_windows(tensors, q_len, kv_len, alignment, causal, window):
    q, k, v = tensors((2, 4, q_len, 16), kv_len=kv_len)
    out = kumiko.attention(q, k, v, causal=causal, causal_alignment=alignment, window=window)
    expected, _ = oracle.attention(q, k, v, causal=causal, window=window or (-1, -1), alignment=alignment)
    oracle.check(out, expected)


@pytest.mark.parametrize("lengths", [[37, 5], (0, 37), np.array([30, 1], np.int32), np.array([30, 0, 1])[::2]])
def test_used_lengths(tensors, lengths):
    q, k, v = tensors()
    k[0, :, int(lengths[0]):] = np.nan  # never read
    out, lse = kumiko.attention(q, k, v, seqused_k=lengths, causal=True, return_lse=True)
    expected, expected_lse = oracle.attention(q, np.nan_to_num(k), v, seqused_k=lengths, causal=True)
    oracle.check(out, expected)
    np.testing.assert_allclose(lse, expected_lse, atol=2e-6)


@pytest.mark.parametrize("shape", [(2, 4, 9, 37), (4, 9, 37), (9, 37), (37,), (2, 1, 1, 37), (1, 4, 9, 1), (9, 1)])
def test_masks_and_biases_broadcast(tensors, random, shape):
    q, k, v = tensors()
    mask = random.random(shape) < 0.7
    bias = random.standard_normal(shape).astype(np.float32)
    oracle.check(kumiko.attention(q, k, v, mask=mask), oracle.attention(q, k, v, mask=mask)[0])
    oracle.check(kumiko.attention(q, k, v, bias=bias), oracle.attention(q, k, v, bias=bias)[0])


def test_strided_masks(tensors, random):
    q, k, v = tensors()
    mask = random.random((37, 9)) < 0.5
    oracle.check(kumiko.attention(q, k, v, mask=mask.T), oracle.attention(q, k, v, mask=mask.T)[0])


def test_bias_of_another_type(tensors, random, dtype):
    q, k, v = tensors()
    bias = random.standard_normal((9, 37)).astype(dtype)
    oracle.check(kumiko.attention(q, k, v, bias=bias), oracle.attention(q, k, v, bias=bias)[0])


@pytest.mark.parametrize("slopes_shape", [(4,), (2, 4)])
def test_terms_in_order(tensors, random, slopes_shape):
    q, k, v = tensors()
    terms = {"softcap": 1.5, "bias": random.standard_normal((1, 4, 1, 37)).astype(np.float32), "mask": random.random((9, 37)) < 0.8,
             "alibi_slopes": random.random(slopes_shape).astype(np.float32), "scale": 0.7}
    oracle.check(kumiko.attention(q, k, v, **terms), oracle.attention(q, k, v, **terms)[0])


def test_scale_of_zero_is_zero(tensors):
    q, k, v = tensors()
    oracle.check(kumiko.attention(q, k, v, scale=0.0), oracle.attention(q, k, v, scale=0.0)[0])
    assert np.array_equal(kumiko.attention(q, k, v, scale=None), kumiko.attention(q, k, v))


@pytest.mark.parametrize("q_len, kv_len", [(9, 37), (1, 700), (40, 700)])
@pytest.mark.parametrize("causal, window", [(True, (5, None)), (False, (3, 2)), (False, (None, 1))])
@pytest.mark.parametrize("first", [1, 4, 300])
def test_first_tokens_and_a_window(tensors, q_len, kv_len, causal, window, first):
    q, k, v = tensors((2, 4, q_len, 16), kv_len=kv_len)
    options = {"causal": causal, "window": window, "window_sink_tokens": first}
    out = kumiko.attention(q, k, v, **options)
    oracle.check(out, oracle.attention(q, k, v, **options)[0])
    plan = kumiko.Plan(q, k, v, **options)
    assert np.array_equal(plan.run(q, k, v), out)
    assert f", first {first} keys besides the window" in plan.explain()
    with pytest.raises(ValueError, match="window_sink_tokens is -1; expected 0 or more"):
        kumiko.attention(q, k, v, window_sink_tokens=-1)


@pytest.mark.parametrize("flags", [[True, False], (False, True), np.array([True, True]), np.array([False, True, True])[::2]])
@pytest.mark.parametrize("prefixes", [None, [3, 20], np.array([0, 90])])
def test_causality_and_prefixes_of_sequences(tensors, flags, prefixes):
    q, k, v = tensors()
    options = {"causal_sequences": flags, "prefix_lens": prefixes, "window": (30, 4)}
    oracle.check(kumiko.attention(q, k, v, **options), oracle.attention(q, k, v, **options)[0])


def test_wrong_causality_and_prefixes_of_sequences(tensors):
    q, k, v = tensors()
    for options, error, message in (
            ({"causal_sequences": [True]}, ValueError, "causal_sequences is 1 flags; expected 2, one for each sequence"),
            ({"causal_sequences": [0, 1]}, TypeError, "causal_sequences .* expected True or False"),
            ({"causal_sequences": np.zeros(2)}, ValueError, "causal_sequences.dtype is float64; expected bool"),
            ({"causal_sequences": np.ones((2, 1), bool)}, ValueError, "causal_sequences.shape is .*; expected one dimension"),
            ({"prefix_lens": [1, 2, 3]}, ValueError, "prefix_lens is 3 integers; expected 2, one for each sequence"),
            ({"prefix_lens": [1, -2]}, ValueError, r"prefix_lens\[1\] is -2; expected 0 or more")):
        with pytest.raises(error, match=message):
            kumiko.attention(q, k, v, **options)


@pytest.mark.parametrize("kv_len", [37, 700])
def test_sinks(tensors, kv_len):
    q, k, v = tensors(kv_len=kv_len)
    sinks = np.array([0.5, -np.inf, 30.0, -4.0], np.float32)
    expected, expected_lse = oracle.attention(q, k, v, causal=True, sinks=sinks)
    out, lse = kumiko.attention(q, k, v, causal=True, sinks=sinks, return_lse=True)
    oracle.check(out, expected)
    np.testing.assert_allclose(lse, expected_lse, atol=4e-6)
    same, without = kumiko.attention(q, k, v, causal=True, sinks=sinks, lse_with_sink=False, return_lse=True)
    assert np.array_equal(same, out) and np.array_equal(without, kumiko.attention(q, k, v, causal=True, return_lse=True)[1])


def test_sinks_of_another_shape_or_type(tensors):
    q, k, v = tensors()
    for sinks, wrong in ((np.zeros(3, np.float32), r"sinks.shape\[0\] is 3; expected 4, as q_heads"),
                         (np.zeros(4, np.float64), "sinks.dtype is float64; expected float32"),
                         (np.zeros((1, 4), np.float32), r"sinks.shape is \(1, 4\); expected one dimension: q_heads"),
                         (np.zeros(8, np.float32)[::2], r"sinks.stride\[0\] is 2; expected 1")):
        with pytest.raises(ValueError, match=wrong):
            kumiko.attention(q, k, v, sinks=sinks)


def test_base_of_the_log_sum_exp(tensors):
    q, k, v = tensors()
    out, natural = kumiko.attention(q, k, v, return_lse=True)
    same, base_2 = kumiko.attention(q, k, v, return_lse=True, lse_base="two")
    assert np.array_equal(same, out)
    np.testing.assert_allclose(base_2, natural * np.log2(np.e), rtol=1e-6)
    with pytest.raises(ValueError, match='lse_base is "ten"; expected "natural", "two"'):
        kumiko.attention(q, k, v, lse_base="ten")


def test_log_sum_exp(tensors, dtype):
    q, k, v = tensors(dtype=dtype)
    out, lse = kumiko.attention(q, k, v, return_lse=True)
    expected, expected_lse = oracle.attention(q, k, v)
    assert lse.dtype == np.float32 and isinstance(lse, np.ndarray)
    oracle.check(out, expected)
    np.testing.assert_allclose(lse, expected_lse, atol=5e-3 if dtype != np.float32 else 2e-6)


def test_rows_that_see_nothing(tensors):
    q, k, v = tensors()
    out, lse = kumiko.attention(q, k, v, mask=np.zeros((9, 1), bool), return_lse=True)
    assert np.all(out == 0) and np.all(lse == -np.inf)


def test_layouts_give_the_same_bits(tensors, dtype):
    q, k, v = tensors(dtype=dtype)
    turned = [np.ascontiguousarray(x.transpose(0, 2, 1, 3)) for x in (q, k, v)]
    out, lse = kumiko.attention(q, k, v, causal=True, return_lse=True)
    out_bshd, lse_bshd = kumiko.attention(*turned, causal=True, layout="bshd", return_lse=True)
    assert out_bshd.shape == (2, 9, 4, 32) and out_bshd.flags.c_contiguous
    assert np.array_equal(out_bshd.transpose(0, 2, 1, 3), out) and np.array_equal(lse_bshd, lse)


def test_strided_views_are_read_in_place(random):
    fused = random.standard_normal((2, 9, 3, 4, 32)).astype(np.float32)  # [batch, length, q k v, heads, dim]
    q, k, v = (fused[:, :, i] for i in range(3))
    out = kumiko.attention(q, k, v, layout="bshd")
    expected, _ = oracle.attention(*(x.transpose(0, 2, 1, 3) for x in (q, k, v)))
    oracle.check(out.transpose(0, 2, 1, 3), expected)
    oracle.check(kumiko.attention(q[:, ::2].transpose(0, 2, 1, 3), *(x.transpose(0, 2, 1, 3) for x in (k, v))), expected[:, :, ::2])


def test_broadcast_views_and_read_only_inputs(tensors):
    q, k, v = tensors()
    wide = [np.broadcast_to(x[:1], x.shape) for x in (k, v)]
    assert not wide[0].flags.writeable
    q.flags.writeable = False
    oracle.check(kumiko.attention(q, *wide), oracle.attention(q, *wide)[0])


def test_out_is_written_in_place_and_returned(tensors, dtype):
    q, k, v = tensors(dtype=dtype)
    expected = kumiko.attention(q, k, v)
    wide = np.zeros((2, 9, 4, 40), dtype)
    out = wide.transpose(0, 2, 1, 3)[..., 8:]
    assert kumiko.attention(q, k, v, out=out) is out
    assert np.array_equal(out, expected) and np.all(wide[..., :8] == 0)
    lse = np.empty((2, 4, 9), np.float32)
    returned = kumiko.attention(q, k, v, out=out, lse=lse)
    assert returned[0] is out and returned[1] is lse
    assert np.array_equal(lse, kumiko.attention(q, k, v, return_lse=True)[1])


def test_row_max_is_the_largest_score(tensors):
    q, k, v = tensors(kv_len=21)
    sinks = np.array([0.5, 9.0, -3.0, 0.0], np.float32)
    options = {"causal": True, "softcap": 2.0, "alibi_slopes": np.array([0.5, 0.25, 0.0, 1.0], np.float32), "seqused_k": [21, 3]}
    out, lse, row_max = kumiko.attention(q, k, v, sinks=sinks, lse_with_sink=False, return_lse=True, return_row_max=True, **options)
    np.testing.assert_allclose(row_max, oracle.row_max(q, k, v, **options), atol=2e-6)
    assert np.all(lse >= row_max) and np.all(row_max[1, :, :6] == -np.inf)  # queries before the first of 3 keys
    again = np.empty_like(row_max)
    returned = kumiko.attention(q, k, v, sinks=sinks, row_max=again, **options)
    assert returned[1] is again and np.array_equal(again, row_max) and np.array_equal(returned[0], out)
    plan = kumiko.Plan(q, k, v, sinks=sinks, **options)
    terms = {"sinks": sinks, "alibi_slopes": options["alibi_slopes"]}
    assert np.array_equal(plan.run(q, k, v, return_row_max=True, **terms)[1], row_max)
    with kumiko.Stream() as stream:
        tickets = [stream.attention(q, k, v, sinks=sinks, return_row_max=True, **options), stream.submit(plan, q, k, v, row_max=again, **terms)]
        assert all(np.array_equal(ticket.wait()[1], row_max) for ticket in tickets)


def test_float32_out_of_narrow_inputs(tensors, dtype):
    q, k, v = tensors(dtype=dtype)
    out = np.empty(q.shape, np.float32)
    kumiko.attention(q, k, v, out=out)
    np.testing.assert_allclose(out, oracle.attention(q, k, v)[0], atol=2e-6 if dtype != ml_dtypes.bfloat16 else 1e-2)  # bf16 products round probabilities


@pytest.mark.parametrize("pipeline", ["online", "two_pass", "interleaved", "three_pass"])
def test_pipelines_give_the_same_bits(tensors, pipeline):
    q, k, v = tensors((1, 4, 70, 32), kv_len=300)
    assert np.array_equal(kumiko.attention(q, k, v, pipeline=pipeline), kumiko.attention(q, k, v))


def test_no_keys_and_no_queries(tensors):
    q, k, v = tensors(kv_len=0)
    assert np.all(kumiko.attention(q, k, v) == 0)
    q, k, v = tensors((2, 4, 0, 32))
    assert kumiko.attention(q, k, v).shape == (2, 4, 0, 32)


def test_precisions(tensors):
    q, k, v = tensors(dtype=np.float16)
    reference = kumiko.Context(isa="reference")
    standard = kumiko.attention(q, k, v, precision="standard", context=reference)
    half = kumiko.attention(q, k, v, precision="half", context=reference)
    assert np.array_equal(standard, kumiko.attention(q, k, v, context=reference))
    assert not np.array_equal(standard, half)
    np.testing.assert_allclose(half.astype(np.float32), standard.astype(np.float32), atol=2e-2)
    plan = kumiko.Plan(q, k, v, precision="half", context=reference)
    assert np.array_equal(plan.run(q, k, v), half)
    with pytest.raises(ValueError, match="precision"):
        kumiko.attention(q, k, v, precision="double")
    wide = [x.astype(np.float32) for x in (q, k, v)]
    with pytest.raises(NotImplementedError, match='precision is "half"; expected standard, as isa reference has no half-precision products of float32'):
        kumiko.attention(*wide, precision="half", context=reference)
