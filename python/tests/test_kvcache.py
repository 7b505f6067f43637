# SPDX-License-Identifier: Apache-2.0
"""attention_with_kvcache with k and v: against fp64, and bit for bit kv_append and attention one after the other."""

import numpy as np
import oracle
import pytest

import kumiko

BATCH, USED, PAGE = 3, [5, 0, 13], 8
CAPACITY = 24


@pytest.fixture
def make(random, dtype):
    """make(q_len, new, is_paged): q, k, v, k_cache, v_cache, table or None, dense caches; rows that are not in use are NaN."""
    def tensors(q_len, new, is_paged):
        q, k, v = (random.standard_normal((BATCH, length, heads, 16)).astype(dtype) for length, heads in ((q_len, 4), (new, 2), (new, 2)))
        dense = [random.standard_normal((BATCH, CAPACITY, 2, 16)).astype(dtype) for _ in range(2)]
        for b, length in enumerate(USED):
            for cache in dense:
                cache[b, length:] = np.nan
        if not is_paged:
            return q, k, v, *(cache.copy() for cache in dense), None, dense
        table = random.permutation(11)[: BATCH * 3].reshape(BATCH, 3).astype(np.int32)
        pools = [np.full((11, PAGE, 2, 16), np.nan, dtype) for _ in range(2)]
        for pool, cache in zip(pools, dense):
            pool[table] = cache.reshape(BATCH, 3, PAGE, 2, 16)
        return q, k, v, *pools, table, dense
    return tensors


def tables(width=12, positions=64):
    angles = np.arange(positions)[:, None] * 100.0 ** (-np.arange(0, width, 2) / width)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotated(rows, positions, cos, sin, interleaved):
    """In fp64: [batch, length, heads, dim] by positions [batch, length]."""
    x, half = np.asarray(rows, np.float64), cos.shape[1]
    first, second = (slice(0, 2 * half, 2), slice(1, 2 * half, 2)) if interleaved else (slice(0, half), slice(half, 2 * half))
    c, s = (np.asarray(table, np.float64)[positions][:, :, None] for table in (cos, sin))
    out = x.copy()
    out[..., first] = x[..., first] * c - x[..., second] * s
    out[..., second] = x[..., second] * c + x[..., first] * s
    return out


def gathered(cache, table):
    return cache if table is None else cache[table].reshape(BATCH, -1, *cache.shape[2:])


LENGTHS = [(1, 1), (4, 4), (2, 5), (6, 3)]
WINDOWS = [({}, False), ({"causal": True}, True), ({"window_size": (6, 2)}, True)]


@pytest.mark.parametrize("is_paged", [False, True])
@pytest.mark.parametrize("q_len, new", LENGTHS)
@pytest.mark.parametrize("given, is_local", WINDOWS)
@pytest.mark.parametrize("interleaved", [None, False, True])
def test_against_fp64(make, is_paged, q_len, new, given, is_local, interleaved):
    q, k, v, k_cache, v_cache, table, dense = make(q_len, new, is_paged)
    rotary, original, dtype = {}, q.copy(), q.dtype
    places = np.array(USED)[:, None]
    want_q, want_k = q.astype(np.float64), k.astype(np.float64)
    if interleaved is not None:
        cos, sin = tables()
        rotary = {"rotary_cos": cos, "rotary_sin": sin, "rotary_interleaved": interleaved}
        steps = np.arange(q_len) if is_local else np.zeros(q_len, int)
        want_q = rotated(q, places + steps, cos, sin, interleaved).astype(dtype)
        want_k = rotated(k, places + np.arange(new), cos, sin, interleaved).astype(dtype)
    out, lse = kumiko.attention_with_kvcache(q, k_cache, v_cache, k, v, cache_seqlens=USED, block_table=table, return_softmax_lse=True, **given, **rotary)
    for b, length in enumerate(USED):
        dense[0][b, length : length + new], dense[1][b, length : length + new] = want_k[b], v[b]
    after = [length + new for length in USED]
    keys, values = (gathered(cache, table) for cache in (k_cache, v_cache))
    assert np.array_equal(np.asarray(values, np.float32), np.asarray(dense[1], np.float32), equal_nan=True)
    tolerance = 4 * oracle.TOLERANCE[dtype.name]
    np.testing.assert_allclose(np.asarray(keys, np.float64), np.asarray(dense[0], np.float64), rtol=tolerance, atol=tolerance)
    clean = [np.nan_to_num(np.asarray(cache, np.float64)) for cache in dense]
    options = {"causal": given.get("causal", False), "window": given.get("window_size", (-1, -1))}
    want, want_lse = oracle.attention(*(x.swapaxes(1, 2) for x in (want_q, *clean)), seqused_k=after, **options)
    np.testing.assert_allclose(np.asarray(out, np.float64), want.swapaxes(1, 2), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(lse, want_lse, rtol=tolerance, atol=tolerance)
    assert np.array_equal(q, original)


@pytest.mark.parametrize("is_paged", [False, True])
@pytest.mark.parametrize("q_len, new", LENGTHS)
@pytest.mark.parametrize("given, is_local", WINDOWS)
def test_bits_of_kv_append_and_attention(make, is_paged, q_len, new, given, is_local):
    q, k, v, k_cache, v_cache, table, _ = make(q_len, new, is_paged)
    want_keys, want_values = k_cache.copy(), v_cache.copy()
    cos, sin = tables()
    where = [length + i for length in USED for i in range(new)]
    if is_paged:
        slots = [int(table[b, p // PAGE]) * PAGE + p % PAGE for b, length in enumerate(USED) for p in range(length, length + new)]
    else:
        slots = [b * CAPACITY + p for b, length in enumerate(USED) for p in range(length, length + new)]
    kumiko.kv_append(k, v, want_keys, want_values, slots, positions=where, cos_sin=(cos, sin), interleaved=True)
    scratch = np.zeros((1, BATCH * q_len, 4, 16), q.dtype)
    of_queries = [length + (i if is_local else 0) for length in USED for i in range(q_len)]
    turned = kumiko.kv_append(q, q, scratch, scratch.copy(), list(range(BATCH * q_len)), query=q, positions=of_queries, cos_sin=(cos, sin), interleaved=True)
    meant = {"causal": given.get("causal", False), "window": given.get("window_size")}
    want = kumiko.attention(turned, want_keys, want_values, layout="bshd", block_table=table, seqused_k=[n + new for n in USED], **meant)
    for lengths in (USED, np.array(USED, np.int32)):
        got = kumiko.attention_with_kvcache(q, k_cache, v_cache, k, v, cos, sin, lengths, None, None, table, **given)
        assert np.array_equal(got, want)
        assert k_cache.tobytes() == want_keys.tobytes() and v_cache.tobytes() == want_values.tobytes()


def test_one_length_for_all_and_no_rotation(make):
    q, k, v, k_cache, v_cache, _, _ = make(1, 2, False)
    k_cache[:, :7] = v_cache[:, :7] = 1
    out = np.zeros(q.shape, np.float32)
    assert kumiko.attention_with_kvcache(q, k_cache, v_cache, k, v, cache_seqlens=7, out=out, num_splits=4) is out
    assert np.array_equal(k_cache[:, 7:9], k) and np.array_equal(v_cache[:, 7:9], v)
    assert np.array_equal(out, kumiko.attention(q, k_cache, v_cache, layout="bshd", seqused_k=[9] * 3, out=np.zeros_like(out)))


@pytest.mark.parametrize("length", [np.int64(7), np.array(7, np.int32)])
def test_one_length_of_numpy(make, length):
    q, k, v, k_cache, v_cache, _, _ = make(1, 2, False)
    k_cache[:], v_cache[:] = 1, 1
    wanted = kumiko.attention_with_kvcache(q, k_cache, v_cache, cache_seqlens=7)
    assert np.array_equal(kumiko.attention_with_kvcache(q, k_cache, v_cache, cache_seqlens=length), wanted)
    kumiko.attention_with_kvcache(q, k_cache, v_cache, k, v, cache_seqlens=length)
    assert np.array_equal(k_cache[:, 7:9], k)


COS, SIN = tables()
Q, K, CACHE = np.zeros((2, 3, 4, 16), np.float32), np.zeros((2, 3, 2, 16), np.float32), np.zeros((2, 24, 2, 16), np.float32)
PAGES, TABLE = np.zeros((6, 8, 2, 16), np.float32), np.arange(6, dtype=np.int32).reshape(2, 3)


@pytest.mark.parametrize("change, error, words", [
    ({"k": None}, ValueError, "v is given; expected None, as k is None"),
    ({"k": None, "v": None}, ValueError, "rotary_cos is given; expected None, as k is None"),
    ({"k": None, "v": None, "rotary_cos": None}, ValueError, "rotary_sin is given; expected None, as k is None"),
    ({"v": None}, ValueError, "v is None; expected the values of k"),
    ({"cache_seqlens": None}, ValueError, "cache_seqlens is None; expected the keys of each sequence before the new ones"),
    ({"cache_seqlens": [1]}, ValueError, "cache_seqlens is 1 integers; expected 2, one for each sequence"),
    ({"cache_seqlens": [1, 22]}, ValueError, r"cache_seqlens\[1\] is 22; expected 0..21, as the cache has room for 24 keys and 3 are new"),
    ({"cache_seqlens": [1.5, 2]}, TypeError, r"^cache_seqlens\[0\] is 1.5 \(float\); expected an integer"),
    ({"cache_seqlens": np.array([1, 2.5])}, TypeError, r"^cache_seqlens\[0\] is 1.0 \(float\); expected an integer"),
    ({"cache_seqlens": [-1, 2]}, ValueError, r"cache_seqlens\[0\] is -1; expected 0..21"),
    ({"k": K[:1]}, ValueError, r"k.shape is \(1, 3, 2, 16\); expected four dimensions: batch, which is 2 in q"),
    ({"k": K[0]}, ValueError, r"k.shape is \(3, 2, 16\); expected four dimensions"),
    ({"v": K[:, :2]}, ValueError, r"^v.shape\[2\] \(seq\) is 2; expected 3"),
    ({"k": K.astype(np.float64)}, ValueError, "^k.dtype is float64; expected float32, float16 or bfloat16"),
    ({"k": K[..., :8]}, ValueError, r"^k_cache.shape\[3\] \(head_dim\) is 16; expected 8, as in k$"),
    ({"k_cache": CACHE[:1]}, ValueError, r"k_cache.shape\[0\] is 1; expected 2, as in q"),
    ({"rotary_sin": None}, ValueError, "rotary_sin is None; expected a table, as the other one is given"),
    ({"rotary_cos": None}, ValueError, "rotary_cos is None; expected a table, as the other one is given"),
    ({"rotary_cos": COS[0]}, ValueError, r"rotary_cos.shape is \(6,\); expected two dimensions: positions, rotary_dim / 2"),
    ({"rotary_cos": COS[:20], "cache_seqlens": [1, 18]}, ValueError, r"rotary_cos.shape\[0\] is 20; expected at least 21, for every position"),
    ({"rotary_sin": SIN[:63]}, ValueError, r"^rotary_sin.shape is \(63, 6\); expected the shape and strides of rotary_cos$"),
    ({"rotary_cos": COS.astype(np.float16)}, ValueError, "^rotary_cos.dtype is float16; expected float32"),
    ({"cache_batch_idx": [0, 1]}, NotImplementedError, "cache_batch_idx is given; expected None"),
    ({"cache_leftpad": [0, 1]}, NotImplementedError, "cache_leftpad is given; expected None"),
])
@pytest.mark.parametrize("is_paged", [False, True])
def test_errors_name_the_argument(change, error, words, is_paged):
    if is_paged and "k_cache" in change:
        return
    keys, values = ((PAGES if is_paged else CACHE).copy() for _ in range(2))
    given = {"q": Q, "k_cache": keys, "v_cache": values, "k": K + 1, "v": K + 1, "cache_seqlens": [1, 4], "rotary_cos": COS, "rotary_sin": SIN,
             "block_table": TABLE if is_paged else None}
    with pytest.raises(error, match=words):
        kumiko.attention_with_kvcache(**{**given, **change})
    assert not keys.any() and not values.any()
    kumiko.attention_with_kvcache(**given)
    assert keys.any() and values.any()


@pytest.mark.parametrize("change, error, words", [
    ({"k_cache": CACHE.astype(np.float16)}, ValueError, "^k_cache.dtype is float16; expected float32, as in q$"),
    ({"k_cache": CACHE[..., :8]}, ValueError, r"^k_cache.shape\[3\] \(head_dim\) is 8; expected 16, as in q.shape\[3\]$"),
    ({"v_cache": CACHE[:, :4]}, ValueError, r"^v_cache.shape\[2\] \(seq\) is 4; expected 24, as in k_cache.shape\[2\]$"),
    ({"cache_seqlens": [1, 25]}, ValueError, r"^cache_seqlens\[1\] is 25; expected 0..24 \(kv_len\)$"),
    ({"cache_seqlens": [1]}, ValueError, "^cache_seqlens is 1 integers; expected 2, one for each sequence"),
    ({"softmax_scale": "1"}, TypeError, "^softmax_scale is '1'"),
    ({"window_size": (-5, 0)}, ValueError, r"^window_size\[0\] \(left\) is -5"),
])  # fmt: skip
def test_errors_of_the_attention_name_the_argument(change, error, words):
    with pytest.raises(error, match=words):
        kumiko.attention_with_kvcache(**{"q": Q, "k_cache": CACHE, "v_cache": CACHE, **change})


@pytest.mark.parametrize("table, words", [
    (TABLE[0], r"block_table.shape is \(3,\); expected two dimensions, \(2, max_pages\)"),
    (TABLE[:1], r"block_table.shape is \(1, 3\); expected two dimensions, \(2, max_pages\)"),
    ([[0, 1, 2], [3, -1, 5]], r"block_table\[1, 1\] is -1; expected 0..5, as keys of sequence 1 are written to this page"),
    ([[6, 1, 2], [3, 4, 5]], r"block_table\[0, 0\] is 6; expected 0..5"),
    ([[0, 1, 2], [0, 1, 5]], r"block_table\[1, 0\] is 0; expected another page than block_table\[0, 0\], which has new keys in the same rows"),
])
def test_errors_of_a_table(table, words):
    keys, values = PAGES.copy(), PAGES.copy()
    with pytest.raises(ValueError, match=words):
        kumiko.attention_with_kvcache(Q, keys, values, K + 1, K + 1, cache_seqlens=[6, 7], block_table=np.array(table, np.int32))
    assert not keys.any() and not values.any()


def test_a_cache_that_cannot_be_written(make):
    q, k, v, k_cache, v_cache, _, _ = make(1, 1, False)
    k_cache.flags.writeable = False
    with pytest.raises(ValueError, match="^k_cache"):
        kumiko.attention_with_kvcache(q, k_cache, v_cache, k, v, cache_seqlens=USED)


@pytest.mark.parametrize("q_len, heads", [(1, 3), (1, 40), (5, 16)])
def test_keys_and_values_may_be_views_of_one_latent_array(q_len, heads):
    random = np.random.default_rng(5)
    latents = random.standard_normal((10, 16, 1, 72)).astype(np.float32)
    query = random.standard_normal((2, q_len, heads, 72)).astype(np.float32)
    options = {"cache_seqlens": [70, 9], "block_table": random.permutation(10).astype(np.int32).reshape(2, 5), "causal": True}
    values = latents[..., 4:68]
    out = kumiko.attention_with_kvcache(query, latents, values, **options)
    assert np.array_equal(out, kumiko.attention_with_kvcache(query, latents, values.copy(), **options))
    dense = latents[options["block_table"]].reshape(2, 80, 1, 72).swapaxes(1, 2)
    expected = oracle.attention(query.swapaxes(1, 2), dense, dense[..., 4:68], seqused_k=[70, 9], causal=True)[0]
    np.testing.assert_allclose(out, expected.swapaxes(1, 2), atol=4e-6)
    plan = kumiko.Plan(query.swapaxes(1, 2), dense, dense[..., 4:68])
    assert "values in the keys' rows" in plan.explain()
