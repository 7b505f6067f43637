# SPDX-License-Identifier: Apache-2.0
"""Attention in fp64 as its definition says, for numpy arrays of [batch, heads, length, dim]."""

import numpy as np

# Largest error allowed by type of the output: of sums of a few dozen terms in f32, and of rounding the result.
TOLERANCE = {"float32": 2e-6, "float16": 2e-3, "bfloat16": 2e-2}


def softmax(scores):
    """(probabilities, log-sum-exp); a row of -inf alone gives 0 and -inf."""
    top = np.max(scores, axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(np.isfinite(top), top, 0))
    total = weights.sum(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        lse = np.log(total) + np.where(np.isfinite(top), top, 0)
    return weights / np.where(total > 0, total, 1), lse[..., 0]


def positions(batch, q_len, kv_len, seqused_k=None, alignment="bottom_right"):
    """Each query's place on the causal diagonal, [batch, 1, q_len, 1]."""
    used = np.full(batch, kv_len) if seqused_k is None else np.asarray(seqused_k)
    offset = used - q_len if alignment == "bottom_right" else np.zeros(batch, int)
    return (np.arange(q_len)[None, :] + offset[:, None])[:, None, :, None]


def visible(shape, causal=False, window=(-1, -1), seqused_k=None, alignment="bottom_right", causal_sequences=None, prefix_lens=None,
            window_sink_tokens=0):
    """[batch, 1, q_len, kv_len] of the keys that each query may see by its place."""
    batch, q_len, kv_len = shape
    place, key = positions(batch, q_len, kv_len, seqused_k, alignment), np.arange(kv_len)
    seen = np.ones((batch, 1, q_len, kv_len), bool)
    left, right = (-1 if side is None else side for side in window)
    of_sequence = lambda numbers: np.broadcast_to(numbers, batch)[:, None, None, None]  # noqa: E731
    is_causal = of_sequence(causal if causal_sequences is None else causal_sequences)
    in_prefix = key < of_sequence(0 if prefix_lens is None else prefix_lens)
    if left >= 0:
        seen &= (key >= place - left) | (key < window_sink_tokens)
    if right >= 0:
        seen &= (key <= place + right) | is_causal | in_prefix | (key < window_sink_tokens)
    seen &= (key <= place) | ~is_causal | in_prefix
    if seqused_k is not None:
        seen &= key < np.asarray(seqused_k)[:, None, None, None]
    return seen


def row_max(q, k, v, **options):
    """The largest score of each query: the maximum of log-sum-exps over one key each."""
    one_key = [attention(q, k, v, mask=np.arange(k.shape[2]) == j, **options)[1] for j in range(k.shape[2])]
    return np.max(one_key, axis=0, initial=-np.inf)


def attention(q, k, v, *, scale=None, softcap=0.0, bias=None, alibi_slopes=None, mask=None, causal=False,
              window=(-1, -1), seqused_k=None, alignment="bottom_right", sinks=None,
              causal_sequences=None, prefix_lens=None, window_sink_tokens=0):
    """(out, lse) of kumiko.attention."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    batch, heads, q_len, dim = q.shape
    kv_len, group = k.shape[2], heads // k.shape[1]
    k, v = (np.repeat(x, group, axis=1) for x in (k, v))
    scores = q @ k.swapaxes(-1, -2) * (1 / np.sqrt(dim) if scale is None else scale)
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    if bias is not None:
        scores = scores + np.asarray(bias, np.float64)
    if alibi_slopes is not None:
        distance = np.abs(positions(batch, q_len, kv_len, seqused_k, alignment) - np.arange(kv_len))
        scores = scores - np.broadcast_to(alibi_slopes, (batch, heads))[:, :, None, None] * distance
    seen = visible((batch, q_len, kv_len), causal, window, seqused_k, alignment, causal_sequences, prefix_lens, window_sink_tokens)
    if mask is not None:
        seen = seen & mask
    scores = np.where(seen, scores, -np.inf)
    if sinks is not None:  # a key without a value
        sink = np.broadcast_to(np.asarray(sinks, np.float64)[:, None, None], (batch, heads, q_len, 1))
        scores, v = np.concatenate([scores, sink], axis=-1), np.concatenate([v, np.zeros_like(v[:, :, :1])], axis=2)
    weights, lse = softmax(scores)
    return weights @ v, lse


def check(out, expected):
    """Whether `out` is `expected`, up to its type's rounding."""
    assert out.shape == expected.shape
    np.testing.assert_allclose(np.asarray(out, np.float64), expected, rtol=0, atol=TOLERANCE[out.dtype.name])
