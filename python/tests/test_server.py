# SPDX-License-Identifier: Apache-2.0
"""varlen_attention and attention_with_kvcache: FlashAttention's arguments, the bits of dense calls."""

import numpy as np
import pytest

import kumiko

QUERIES, KEYS = [3, 0, 11, 1], [20, 5, 11, 70]


def starts(lengths):
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


@pytest.fixture
def step(random, dtype):
    """q, k, v of each sequence, [length, heads, dim]."""
    return [[random.standard_normal((length, heads, 16)).astype(dtype) for heads, length in ((4, q_len), (2, kv_len), (2, kv_len))]
            for q_len, kv_len in zip(QUERIES, KEYS)]


def alone(step, **options):
    """Each sequence by attention(), put together: (out [total, heads, dim], lse [heads, total])."""
    found = [kumiko.attention(*(x[None] for x in tensors), layout="bshd", return_lse=True, **options) for tensors in step]
    return np.concatenate([out[0] for out, _ in found]), np.concatenate([lse[0] for _, lse in found], axis=1)


def pages_of(random, step, size):
    """(k, v, block_table): rows past a length are NaN."""
    needed = [-(-length // size) for length in KEYS]
    order = iter(random.permutation(sum(needed)))
    table = np.full((len(KEYS), max(needed)), -1, np.int32)
    pools = [np.full((sum(needed), size, 2, 16), np.nan, step[0][1].dtype) for _ in range(2)]
    for b, tensors in enumerate(step):
        for i in range(needed[b]):
            table[b, i] = next(order)
            for pool, rows in zip(pools, tensors[1:]):
                part = rows[i * size : (i + 1) * size]
                pool[table[b, i], : len(part)] = part
    return *pools, table


OPTIONS = [({}, {}), ({"causal": True, "softmax_scale": 0.5}, {"causal": True, "scale": 0.5}),
           ({"window_size": (6, 2), "softcap": 3.0}, {"window": (6, 2), "softcap": 3.0})]


@pytest.mark.parametrize("given, meant", OPTIONS)
def test_varlen(step, given, meant):
    q, k, v = (np.concatenate([tensors[part] for tensors in step]) for part in range(3))
    out, lse = kumiko.varlen_attention(q, k, v, starts(QUERIES), starts(KEYS), 11, 70, return_lse=True, **given)
    wanted = alone(step, **meant)
    assert np.array_equal(out, wanted[0]) and np.array_equal(lse, wanted[1])
    own = np.empty_like(out)
    assert kumiko.varlen_attention(q, k, v, starts(QUERIES), starts(KEYS), out=own, **given) is own
    assert np.array_equal(own, wanted[0])


@pytest.mark.parametrize("given, meant", OPTIONS)
def test_varlen_in_pages(random, step, given, meant):
    k, v, table = pages_of(random, step, 16)
    q = np.concatenate([tensors[0] for tensors in step])
    out = kumiko.varlen_attention(q, k, v, starts(QUERIES), starts(KEYS), block_table=table, **given)
    assert np.array_equal(out, alone(step, **meant)[0])


def test_slopes_of_each_sequence(random, step):
    slopes = random.random((len(QUERIES), 4)).astype(np.float32)
    q, k, v = (np.concatenate([tensors[part] for tensors in step]) for part in range(3))
    out = kumiko.varlen_attention(q, k, v, starts(QUERIES), starts(KEYS), causal=True, alibi_slopes=slopes)
    found = [kumiko.attention(*(x[None] for x in tensors), layout="bshd", causal=True, alibi_slopes=slopes[b]) for b, tensors in enumerate(step)]
    assert np.array_equal(out, np.concatenate([one[0] for one in found]))


@pytest.mark.parametrize("given, meant", OPTIONS)
def test_kvcache(random, step, given, meant):
    k, v, table = pages_of(random, step, 16)
    q = random.standard_normal((len(KEYS), 2, 4, 16)).astype(k.dtype)
    sequences = [[q[b], *tensors[1:]] for b, tensors in enumerate(step)]
    wanted = [kumiko.attention(*(x[None] for x in tensors), layout="bshd", return_lse=True, **meant) for tensors in sequences]
    out, lse = kumiko.attention_with_kvcache(q, k, v, cache_seqlens=KEYS, block_table=table, return_softmax_lse=True, **given)
    assert np.array_equal(out, np.concatenate([one for one, _ in wanted]))
    assert np.array_equal(lse, np.concatenate([one for _, one in wanted]))


def test_slopes_of_a_cache(random, step):
    slopes = random.random((len(KEYS), 4)).astype(np.float32)
    k, v, table = pages_of(random, step, 16)
    q = random.standard_normal((len(KEYS), 1, 4, 16)).astype(k.dtype)
    wanted = [kumiko.attention(q[b][None], *(x[None] for x in tensors[1:]), layout="bshd", alibi_slopes=slopes[b])[0] for b, tensors in enumerate(step)]
    found = kumiko.attention_with_kvcache(q, k, v, cache_seqlens=KEYS, block_table=table, alibi_slopes=slopes)
    assert np.array_equal(found, wanted)
    assert not np.array_equal(found, kumiko.attention_with_kvcache(q, k, v, cache_seqlens=KEYS, block_table=table))


def test_kvcache_without_pages(random):
    q, k, v = (random.standard_normal((2, length, heads, 8)).astype(np.float32) for length, heads in ((1, 4), (30, 2), (30, 2)))
    wanted = kumiko.attention(q, k[:, :21], v[:, :21], layout="bshd")
    for lengths in (21, [21, 21], np.array([21, 21], np.int32)):
        assert np.array_equal(kumiko.attention_with_kvcache(q, k, v, cache_seqlens=lengths), wanted)
    assert np.array_equal(kumiko.attention_with_kvcache(q, k, v), kumiko.attention(q, k, v, layout="bshd"))


def test_sinks(random, step):
    sinks = np.array([-1, 0.5, 3, -np.inf], np.float32)
    q, k, v = (np.concatenate([tensors[part] for tensors in step]) for part in range(3))
    out, lse = kumiko.varlen_attention(q, k, v, starts(QUERIES), starts(KEYS), causal=True, sinks=sinks, return_lse=True)
    wanted = alone(step, causal=True, sinks=sinks)
    assert np.array_equal(out, wanted[0]) and np.array_equal(lse, wanted[1])
    k, v, table = pages_of(random, step, 16)
    q = random.standard_normal((len(KEYS), 1, 4, 16)).astype(k.dtype)
    wanted = [kumiko.attention(q[b][None], *(x[None] for x in tensors[1:]), layout="bshd", sinks=sinks)[0] for b, tensors in enumerate(step)]
    assert np.array_equal(kumiko.attention_with_kvcache(q, k, v, cache_seqlens=KEYS, block_table=table, sinks=sinks), wanted)


def test_what_is_refused(random):
    q = random.standard_normal((4, 2, 8)).astype(np.float32)
    with pytest.raises(NotImplementedError, match=r"dropout_p is 0.1; expected 0.0"):
        kumiko.varlen_attention(q, q, q, [0, 4], [0, 4], dropout_p=0.1)
    with pytest.raises(NotImplementedError, match=r"return_attn_probs is True; expected False"):
        kumiko.varlen_attention(q, q, q, [0, 4], [0, 4], return_attn_probs=True)
    with pytest.raises(ValueError, match=r"cu_seqlens_q\[1\] is 5; expected at most q.shape\[2\], which is 4"):
        kumiko.varlen_attention(q, q, q, [0, 5], [0, 4])
    with pytest.raises(ValueError, match=r"^window_size\[1\] \(right\) is -3"):
        kumiko.varlen_attention(q, q, q, [0, 4], [0, 4], window_size=(0, -3))
    with pytest.raises(ValueError, match=r"^q.shape is \(1, 4, 2, 8\); expected three dimensions: tokens, heads, dim"):
        kumiko.varlen_attention(q[None], q, q, [0, 4], [0, 4])
    pages, table = np.zeros((1, 4, 2, 8), np.float32), np.zeros((1, 1), np.int32)
    with pytest.raises(ValueError, match=r"^k.shape is \(4, 2, 8\); expected four dimensions: pages"):
        kumiko.varlen_attention(q, q, pages, [0, 4], [0, 4], block_table=table)
    with pytest.raises(ValueError, match=r"^cu_seqlens_k\[1\] - cu_seqlens_k\[0\] is 5; expected 0..4"):
        kumiko.varlen_attention(q, pages, pages, [0, 4], [0, 5], block_table=table)
    with pytest.raises(TypeError, match=r"^cu_seqlens_k\[1\] is 3.5 \(float\); expected an integer"):
        kumiko.varlen_attention(q, pages, pages, [0, 4], [0, 3.5], block_table=table)
    with pytest.raises(ValueError, match=r"cache_seqlens is None; expected the keys of each sequence"):
        kumiko.attention_with_kvcache(q[None], q[None], q[None], block_table=np.zeros((1, 1), np.int32))
