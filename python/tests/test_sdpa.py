# SPDX-License-Identifier: Apache-2.0
"""kumiko.scaled_dot_product_attention: PyTorch's meaning of every argument. tests/peers compares it with PyTorch."""

import inspect

import numpy as np
import oracle
import pytest

import kumiko


def sdpa_oracle(query, key, value, attn_mask=None, is_causal=False, scale=None, enable_gqa=False):
    """Of any number of dimensions, in fp64, by numpy's own broadcasting."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    if enable_gqa:
        key, value = (np.repeat(x, query.shape[-3] // x.shape[-3], axis=-3) for x in (key, value))
    scores = query @ key.swapaxes(-1, -2) * (1 / np.sqrt(query.shape[-1]) if scale is None else scale)
    seen = np.ones(scores.shape[-2:], bool)
    if is_causal:
        seen = np.tril(seen)
    if attn_mask is not None and attn_mask.dtype == bool:
        seen = seen & attn_mask
    elif attn_mask is not None:
        scores = scores + np.asarray(attn_mask, np.float64)
    return oracle.softmax(np.where(seen, scores, -np.inf))[0] @ value


def normal(random, *shapes, dtype=np.float32):
    return [random.standard_normal(shape).astype(dtype) for shape in shapes]


def compare(query, key, value, **options):
    oracle.check(kumiko.scaled_dot_product_attention(query, key, value, **options), sdpa_oracle(query, key, value, **options))


def test_the_signature_is_pytorchs():
    expected = "(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False)"
    bare = [p.replace(annotation=p.empty) for p in inspect.signature(kumiko.scaled_dot_product_attention).parameters.values()]
    assert str(inspect.Signature(bare)) == expected


@pytest.mark.parametrize("leading", [(), (3,), (2, 3), (2, 2, 3), (2, 1, 2, 3)])
def test_any_number_of_dimensions(random, dtype, leading):
    compare(*normal(random, (*leading, 5, 16), (*leading, 7, 16), (*leading, 7, 12), dtype=dtype))


@pytest.mark.parametrize("q_len, kv_len", [(5, 9), (9, 5), (6, 6)])
def test_causality_is_aligned_to_the_top_left(random, q_len, kv_len):
    compare(*normal(random, (2, 3, q_len, 16), (2, 3, kv_len, 16), (2, 3, kv_len, 16)), is_causal=True)


@pytest.mark.parametrize("scale", [None, 0.0, 0.3, -1.0, 2])
def test_scale(random, scale):
    compare(*normal(random, (2, 3, 5, 16), (2, 3, 7, 16), (2, 3, 7, 16)), scale=scale)


@pytest.mark.parametrize("leading, kv_leading", [((2, 8), (2, 2)), ((8,), (2,)), ((3, 2, 8), (3, 2, 4)), ((2, 8), (1, 2))])
def test_grouped_heads(random, leading, kv_leading):
    compare(*normal(random, (*leading, 5, 16), (*kv_leading, 7, 16), (*kv_leading, 7, 16)), enable_gqa=True)


@pytest.mark.parametrize("query, key, value", [
    ((2, 8), (2, 1), (2, 1)), ((2, 8), (1, 8), (2, 8)), ((2, 8), (2, 8), (2, 1)), ((2, 1), (2, 8), (2, 8)),
    ((2, 8), (8,), (8,)), ((3, 1, 4), (1, 2, 4), (3, 2, 1)), ((2, 1, 3, 4), (1, 2, 3, 4), (2, 2, 1, 4)), ((2, 8), (), ()),
])
def test_leading_dimensions_broadcast(random, query, key, value):
    compare(*normal(random, (*query, 5, 16), (*key, 7, 16), (*value, 7, 16)))


@pytest.mark.parametrize("shape", [(5, 7), (1, 7), (5, 1), (7,), (4, 5, 7), (1, 5, 7), (3, 1, 5, 7), (3, 4, 1, 7), (2, 3, 4, 5, 7), (2, 1, 1, 1, 7)])
def test_masks_broadcast(random, shape):
    tensors = normal(random, (2, 3, 4, 5, 16), (2, 3, 4, 7, 16), (2, 3, 4, 7, 16))
    mask = random.random(shape) < 0.7
    mask[..., 0] = True
    compare(*tensors, attn_mask=mask)
    compare(*tensors, attn_mask=random.standard_normal(shape).astype(np.float32))


def test_a_row_without_keys_is_zero(random):
    tensors = normal(random, (2, 3, 5, 16), (2, 3, 7, 16), (2, 3, 7, 16))
    mask = np.ones((5, 7), bool)
    mask[2] = False
    compare(*tensors, attn_mask=mask)
    assert np.all(kumiko.scaled_dot_product_attention(*tensors, attn_mask=mask)[:, :, 2] == 0)


def test_strided_leading_dimensions_that_are_no_single_one(random):
    wide = normal(random, (4, 3, 6, 5, 16), (4, 3, 6, 7, 16), (4, 3, 6, 7, 16))
    compare(*(x[::2, :, ::3] for x in wide))
    compare(*(x[:, 0] for x in wide), is_causal=True)


@pytest.mark.parametrize("leading", [(0, 3), (2, 0, 3), (0, 2, 2, 3), (2, 0)])
def test_empty(random, leading):
    tensors = normal(random, (*leading, 5, 16), (*leading, 7, 16), (*leading, 7, 12))
    assert kumiko.scaled_dot_product_attention(*tensors).shape == (*leading, 5, 12)


@pytest.mark.parametrize("change, error, words", [
    ({"dropout_p": 0.1}, NotImplementedError, "dropout_p is 0.1"),
    ({"is_causal": True, "attn_mask": np.ones((5, 7), bool)}, ValueError, "attn_mask is a tensor; expected None where is_causal"),
    ({"attn_mask": np.ones((5, 8), bool)}, ValueError, r"attn_mask.shape\[-1\] is 8; expected 7"),
    ({"attn_mask": np.ones((4, 7), bool)}, ValueError, r"attn_mask.shape\[-2\] is 4; expected 5"),
    ({"attn_mask": np.ones((3, 5, 7), bool)}, ValueError, r"attn_mask.shape\[-3\] is 3; expected 4"),
    ({"attn_mask": np.ones((3, 1, 5, 7), bool)}, ValueError, r"attn_mask.shape\[-4\] is 3; expected 2"),
    ({"attn_mask": np.ones((1, 1, 1, 5, 7), bool)}, ValueError, "attn_mask.shape is .*; expected at most 4 dimensions"),
    ({"attn_mask": np.ones((5, 7), np.uint8)}, ValueError, "attn_mask.dtype is uint8"),
    ({"key": np.zeros((2, 3, 7, 16), np.float32)}, ValueError, r"key.shape\[-3\] is 3; expected 4, as in query"),
    ({"key": np.zeros((2, 2, 7, 16), np.float32), "enable_gqa": True}, NotImplementedError, r"value.shape\[-3\] is 4; expected 2, as in key"),
    ({"key": np.zeros((2, 4, 7, 8), np.float32)}, ValueError, r"key.shape\[-1\] is 8; expected 16, as in query"),
    ({"key": np.zeros((2, 4, 7, 16), np.float16)}, ValueError, "key.dtype is float16; expected float32, as in query"),
    ({"key": np.zeros((3, 4, 7, 16), np.float32)}, ValueError, r"key.shape\[-4\] is 3; expected 2"),
    ({"value": np.zeros((2, 4, 8, 16), np.float32)}, ValueError, r"value.shape\[-2\] is 8; expected 7, as in key"),
    ({"value": np.zeros((2, 4, 7, 577), np.float32)}, ValueError, r"value.shape\[3\] \(head_dim\) is 577; expected 1..576"),
    ({"value": np.zeros((2, 4, 7, 32), np.float32)[..., ::2]}, ValueError, r"value.stride\[3\] \(head_dim\) is 2; expected 1"),
    ({"query": np.zeros(16, np.float32)}, ValueError, r"query.shape is \(16,\); expected two dimensions or more"),
    ({"query": None}, TypeError, "query is None; expected a tensor"),
    ({"is_causal": "yes"}, TypeError, r"is_causal is 'yes' \(str\); expected True or False"),
    ({"scale": float("nan")}, ValueError, "scale is NaN"),
])
def test_errors_name_the_argument(change, error, words):
    arguments = {"query": np.zeros((2, 4, 5, 16), np.float32), "key": np.zeros((2, 4, 7, 16), np.float32), "value": np.zeros((2, 4, 7, 16), np.float32)}
    with pytest.raises(error, match=words):
        kumiko.scaled_dot_product_attention(**{**arguments, **change})


def test_grouped_heads_must_divide(random):
    tensors = normal(random, (2, 8, 5, 16), (2, 3, 7, 16), (2, 3, 7, 16))
    with pytest.raises(ValueError, match=r"key.shape\[-3\] is 3; expected a divisor of query.shape\[-3\], which is 8"):
        kumiko.scaled_dot_product_attention(*tensors, enable_gqa=True)
