# SPDX-License-Identifier: Apache-2.0
"""attention_backward: gradients against differences of the oracle, in the kinds of tensors that Python has."""

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


def test_errors_name_the_argument(call):
    *inputs, dout = call
    out, lse = kumiko.attention(*inputs, return_lse=True)
    with pytest.raises(ValueError, match=r"dout\.shape\[2\]"):
        kumiko.attention_backward(dout[:, :, :3], *inputs, out, lse)
    with pytest.raises(ValueError, match="dq.data"):
        kumiko.attention_backward(dout, *inputs, out, lse, dq=inputs[0])
