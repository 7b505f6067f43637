# SPDX-License-Identifier: Apache-2.0
"""attention_backward: gradients against differences of the oracle, in the kinds of tensors that Python has."""

import ml_dtypes
import numpy as np
import oracle
import pytest

import kumiko

STEP = 1e-5


def differences(inputs, dout, dlse=None, **options):
    """Gradients of sum(dout * out) + sum(dlse * lse) by each input."""
    def loss(changed):
        out, lse = oracle.attention(*changed, **options)
        return np.sum(dout * out) + (0 if dlse is None else np.sum(dlse * lse))
    gradients = []
    for n, x in enumerate(inputs):
        gradient = np.zeros(x.shape)
        for at in np.ndindex(x.shape):
            values = []
            for sign in (1, -1):
                changed = [np.array(y, np.float64) for y in inputs]
                changed[n][at] += sign * STEP
                values.append(loss(changed))
            gradient[at] = (values[0] - values[1]) / (2 * STEP)
        gradients.append(gradient)
    return gradients


@pytest.fixture
def call(tensors, random):
    q, k, v = tensors((1, 2, 4, 5), 1, 6, 3)
    return q, k, v, random.standard_normal((1, 2, 4, 3)).astype(np.float32)


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"softcap": 2.0, "scale": 0.7}, {"window": (2, 1)}])
def test_gradients_are_those_of_the_definition(call, options):
    *inputs, dout = call
    out, lse = kumiko.attention(*inputs, return_lse=True, **options)
    got = kumiko.attention_backward(dout, *inputs, out, lse, **options)
    assert len(got) == 3
    for gradient, want in zip(got, differences(inputs, dout, **options), strict=True):
        assert gradient.dtype == np.float32
        np.testing.assert_allclose(gradient, want, atol=2e-5)


def test_gradient_of_the_lse(call, random):
    *inputs, dout = call
    dlse = random.standard_normal((1, 2, 4)).astype(np.float32)
    out, lse = kumiko.attention(*inputs, return_lse=True)
    got = kumiko.attention_backward(dout, *inputs, out, lse, dlse=dlse)
    for gradient, want in zip(got, differences(inputs, dout, dlse), strict=True):
        np.testing.assert_allclose(gradient, want, atol=2e-5)


def test_layout_type_and_given_tensors(call, dtype):
    q, k, v, dout = (np.ascontiguousarray(x.transpose(0, 2, 1, 3)).astype(dtype) for x in call)
    out, lse = kumiko.attention(q, k, v, return_lse=True, layout="bshd")
    dq, dk, dv = kumiko.attention_backward(dout, q, k, v, out, lse, layout="bshd")
    assert [x.dtype for x in (dq, dk, dv)] == [dtype] * 3
    assert [x.shape for x in (dq, dk, dv)] == [x.shape for x in (q, k, v)]
    given = [np.empty(x.shape, np.float32) for x in (q, k, v)]
    kumiko.attention_backward(dout, q, k, v, out, lse, dq=given[0], dk=given[1], dv=given[2], layout="bshd")
    for narrow, wide in zip((dq, dk, dv), given, strict=True):
        np.testing.assert_array_equal(narrow, wide.astype(dtype))


def test_precisions(call):
    *inputs, dout = (x.astype(ml_dtypes.bfloat16) for x in call)
    context = kumiko.Context()
    out, lse = kumiko.attention(*inputs, return_lse=True, precision="standard", context=context)
    made = {precision: kumiko.attention_backward(dout, *inputs, out, lse, precision=precision, context=context)
            for precision in (("automatic", "standard", "half") if context.isa == "avx512_bf16" else ("automatic", "standard"))}
    for got, same in zip(made["automatic"], made["half" if "half" in made else "standard"], strict=True):
        np.testing.assert_array_equal(got, same)
    for got, standard in zip(made["automatic"], made["standard"], strict=True):
        np.testing.assert_allclose(got.astype(np.float32), standard.astype(np.float32), atol=4e-2)
    explained = kumiko.BackwardPlan(dout, *inputs, out, precision="standard", context=context).explain()
    assert "elements bf16, products of f32" in explained
    with pytest.raises(NotImplementedError, match='^precision is "half"; expected standard, or q, k, v and dout of bfloat16 on isa avx512_bf16; q is float32'):
        kumiko.attention_backward(dout, *(x.astype(np.float32) for x in inputs), out.astype(np.float32), lse, precision="half")
    with pytest.raises(ValueError, match="precision"):
        kumiko.attention_backward(dout, *inputs, out, lse, precision="double")


def test_sinks_have_a_gradient(call):
    *inputs, dout = call
    sinks = np.array([0.5, -1.0], np.float32)
    out, lse = kumiko.attention(*inputs, sinks=sinks, return_lse=True)
    *_, dsinks = kumiko.attention_backward(dout, *inputs, out, lse, sinks=sinks)
    want = []
    for head in range(2):
        values = [np.sum(dout * oracle.attention(*inputs, sinks=sinks + sign * STEP * np.eye(2)[head])[0]) for sign in (1, -1)]
        want.append((values[0] - values[1]) / (2 * STEP))
    np.testing.assert_allclose(dsinks, want, atol=2e-5)


@pytest.mark.parametrize("shape", [(1, 2, 4, 6), (2, 4, 6), (4, 6), (1, 1, 1, 6), (2, 1, 1), (4, 1)])
def test_a_bias_has_a_gradient(call, random, shape):
    *inputs, dout = call
    bias = random.standard_normal(shape).astype(np.float32)
    out, lse = kumiko.attention(*inputs, bias=bias, return_lse=True)
    dq, dk, dv, dbias = kumiko.attention_backward(dout, *inputs, out, lse, bias=bias, return_dbias=True)
    want = np.zeros(shape)
    for at in np.ndindex(shape):
        values = []
        for sign in (1, -1):
            changed = bias.astype(np.float64)
            changed[at] += sign * STEP
            values.append(np.sum(dout * oracle.attention(*inputs, bias=changed)[0]))
        want[at] = (values[0] - values[1]) / (2 * STEP)
    assert dbias.shape == shape and dbias.dtype == np.float32
    np.testing.assert_allclose(dbias, want, atol=2e-5)
    given = np.empty(shape, np.float16)
    found = kumiko.attention_backward(dout, *inputs, out, lse, bias=bias, dbias=given)
    assert len(found) == 4 and found[3] is given
    np.testing.assert_array_equal(given, dbias.astype(np.float16))
    for gradient, same in zip((dq, dk, dv), found, strict=False):
        np.testing.assert_array_equal(gradient, same)


@pytest.mark.parametrize("batch, q_len, kv_len, shape", [
    (2, 0, 6, (2, 2, 1, 6)), (2, 0, 6, (1, 6)), (2, 0, 6, (1, 1, 1, 1)), (2, 4, 0, (4, 1)), (2, 4, 0, (2, 1, 1)), (0, 4, 6, (4, 6)), (2, 0, 6, (2, 0, 6)),
])
def test_the_gradient_of_a_bias_of_nothing_is_zero(tensors, random, batch, q_len, kv_len, shape):
    """What it is broadcast to is nothing, but it has elements of its own: none of them may keep what was in their memory."""
    q, k, v = tensors((batch, 2, q_len, 5), 2, kv_len, 3)
    bias = random.standard_normal(shape).astype(np.float32)
    out, lse = kumiko.attention(q, k, v, bias=bias, return_lse=True)
    dout = np.ones_like(out)
    plan = kumiko.BackwardPlan(dout, q, k, v, out, bias=bias, return_dbias=True)
    for dtype in (np.float32, np.float16):
        for call in (kumiko.attention_backward, plan.run):
            if call == plan.run and dtype == np.float16:
                continue  # not the planned type
            wide = np.full((*shape[:-1], shape[-1] + 3), np.nan, dtype)
            given = wide[..., 1 : shape[-1] + 1] if call != plan.run else np.full(shape, np.nan, dtype)
            found = call(dout, q, k, v, out, lse, bias=bias, dbias=given)
            assert found[3] is given and not given.any()
            assert np.isnan(wide[..., [0, -2, -1]]).all()


@pytest.mark.parametrize("per_batch", [False, True])
def test_alibi_slopes_have_a_gradient(tensors, random, per_batch):
    q, k, v = tensors((2, 2, 4, 5), 1, 6, 3)
    dout = random.standard_normal((2, 2, 4, 3)).astype(np.float32)
    slopes = np.array([0.5, 0.1], np.float32)
    if per_batch:
        slopes = np.broadcast_to(slopes, (2, 2))
    options = {"alibi_slopes": slopes}
    out, lse = kumiko.attention(q, k, v, return_lse=True, **options)
    *_, found = kumiko.attention_backward(dout, q, k, v, out, lse, return_dalibi_slopes=True, **options)
    want = np.zeros(slopes.shape)
    for at in np.ndindex(slopes.shape):
        values = []
        for sign in (1, -1):
            changed = slopes.astype(np.float64)
            changed[at] += sign * STEP
            values.append(np.sum(dout * oracle.attention(q, k, v, alibi_slopes=changed)[0]))
        want[at] = (values[0] - values[1]) / (2 * STEP)
    assert found.shape == slopes.shape and found.dtype == np.float32
    np.testing.assert_allclose(found, want, atol=2e-5)


def test_a_delta_of_the_caller(call):
    *inputs, dout = call
    out, lse = kumiko.attention(*inputs, return_lse=True)
    right = kumiko.attention_backward(dout, *inputs, out, lse)
    delta = np.sum(dout.astype(np.float64) * out, axis=-1).astype(np.float32)
    found = kumiko.attention_backward(dout, *inputs, np.full_like(out, np.nan), lse, delta=delta)
    for gradient, same in zip(found, right, strict=True):
        np.testing.assert_allclose(gradient, same, atol=1e-6)


def test_errors_name_the_argument(call):
    *inputs, dout = call
    out, lse = kumiko.attention(*inputs, return_lse=True)
    with pytest.raises(ValueError, match=r"dout\.shape\[2\]"):
        kumiko.attention_backward(dout[:, :, :3], *inputs, out, lse)
    with pytest.raises(ValueError, match="^dq.data is .*; expected memory apart from q$"):
        kumiko.attention_backward(dout, *inputs, out, lse, dq=inputs[0])
    with pytest.raises(ValueError, match="dbias is wanted; expected not wanted, as bias is None"):
        kumiko.attention_backward(dout, *inputs, out, lse, return_dbias=True)
    with pytest.raises(ValueError, match="dalibi_slopes is wanted; expected not wanted, as alibi_slopes is None"):
        kumiko.attention_backward(dout, *inputs, out, lse, return_dalibi_slopes=True)
    bias = np.zeros((4, 6), np.float32)
    with pytest.raises(ValueError, match=r"dbias\.shape is \(1, 6\); expected \(4, 6\), that of bias"):
        kumiko.attention_backward(dout, *inputs, out, lse, bias=bias, dbias=bias[:1])
    slopes, wide = np.zeros(2, np.float32), np.zeros((3, 2), np.float32)
    for name, like in (("sinks", "dsinks"), ("alibi_slopes", "dalibi_slopes")):
        for given, words in ((wide[0, :1], rf"{like}\.shape is \(1,\); expected \(2,\), that of {name}"),
                             (wide[:2, 0], rf"{like}\.stride\[0\] is 2; expected 1"),
                             (slopes.astype(np.float64), f"{like}.dtype is float64; expected float32")):
            with pytest.raises(ValueError, match=words):
                kumiko.attention_backward(dout, *inputs, out, lse, **{name: slopes, like: given})
    with pytest.raises(ValueError, match="dsinks is given; expected None, as sinks is None"):
        kumiko.attention_backward(dout, *inputs, out, lse, dsinks=wide[0])
    with pytest.raises(ValueError, match=r"delta\.shape"):
        kumiko.attention_backward(dout, *inputs, out, lse, delta=lse[:, :1])
