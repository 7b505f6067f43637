# SPDX-License-Identifier: Apache-2.0
"""kv_append: the bytes that numpy computes, in the dtypes and layouts of caches, and what it refuses."""

import numpy as np
import pytest

import kumiko

TOKENS, HEADS, QUERY_HEADS, DIM, PAGES, SIZE = 7, 2, 6, 24, 3, 4
SLOTS = [9, 2, -1, 3, 0, 11, 4]
POSITIONS = [0, 1, 2, 3, 900, 5, 6]


@pytest.fixture
def step(random, dtype):
    """query, key, value of the tokens, and two caches full of 7."""
    rows = [random.standard_normal((TOKENS, heads, DIM)).astype(dtype) for heads in (QUERY_HEADS, HEADS, HEADS)]
    return *rows, *(np.full((PAGES, SIZE, HEADS, DIM), 7, dtype) for _ in range(2))


def cos_sin(rotary_dim, count=1000, theta=10000.0):
    angles = np.arange(count)[:, None] * theta ** (-np.arange(0, rotary_dim, 2) / rotary_dim)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def rotated(rows, table, interleaved=False):
    """In float32 with a rounding after each operation, then to the rows' type."""
    x, width = rows.astype(np.float32), table.shape[1]
    first, second = (slice(0, width, 2), slice(1, width, 2)) if interleaved else (slice(0, width // 2), slice(width // 2, width))
    cos, sin = table[POSITIONS][:, None, : width // 2], table[POSITIONS][:, None, width // 2 :]
    out = x.copy()
    out[..., first] = x[..., first] * cos - x[..., second] * sin
    out[..., second] = x[..., second] * cos + x[..., first] * sin
    return out.astype(rows.dtype)


def stored(cache, rows):
    want = np.full_like(cache, 7)
    for token, slot in enumerate(SLOTS):
        if slot >= 0:
            want[slot // SIZE, slot % SIZE] = rows[token]
    return want


def same(got, want):
    return got.dtype == want.dtype and got.tobytes() == want.tobytes()


def test_rows_are_copied_to_their_slots(step):
    _, key, value, keys, values = step
    assert kumiko.kv_append(key, value, keys, values, SLOTS) is None
    assert same(keys, stored(keys, key)) and same(values, stored(values, value))


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("width", [DIM, 8])
def test_rotation_by_tables(step, interleaved, width):
    query, key, value, keys, values = step
    table = cos_sin(width)
    for tables in (table, (table[:, : width // 2], table[:, width // 2 :])):
        out = kumiko.kv_append(
            key, value, keys, values, np.array(SLOTS), query=query, positions=np.array(POSITIONS, np.int32), cos_sin=tables,
            interleaved=interleaved,
        )  # fmt: skip
        assert same(keys, stored(keys, rotated(key, table, interleaved))) and same(values, stored(values, value))
        assert same(out, rotated(query, table, interleaved))


@pytest.mark.parametrize("theta", [None, 500.0])
def test_computed_angles_are_those_of_the_table(step, theta):
    query, key, value, keys, values = step
    base = {} if theta is None else {"rope_theta": theta}
    want = kumiko.kv_append(key, value, keys, values, SLOTS, query=query, positions=POSITIONS, cos_sin=cos_sin(16, theta=theta or 10000.0))
    found = kumiko.kv_append(key, value, keys, values, SLOTS, query=query, positions=POSITIONS, rotary_dim=16, **base)
    assert np.allclose(found.astype(np.float64), want.astype(np.float64), rtol=1e-2 if want.dtype.itemsize == 2 else 1e-6, atol=1e-6)
    halved = kumiko.kv_append(
        key, value, keys, values, SLOTS, query=query, positions=[2 * p for p in POSITIONS], rotary_dim=16, rope_scale=0.5, **base
    )
    assert same(halved, found)


def test_norm_comes_before_the_rotation(step, random):
    query, key, value, keys, values = step
    weight = random.standard_normal(DIM).astype(np.float32)
    table = cos_sin(DIM)
    out = kumiko.kv_append(key, value, keys, values, SLOTS, query=query, positions=POSITIONS, cos_sin=table,
                           key_norm=weight, query_norm=weight, norm_eps=1e-5)  # fmt: skip
    x = query.astype(np.float64)
    normed = (x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weight).astype(np.float32)
    tolerance = {4: 1e-5, 2: 4e-2}[query.dtype.itemsize]
    assert np.allclose(out.astype(np.float64), rotated(normed, table), rtol=tolerance, atol=tolerance)


def test_in_place_and_given_outputs(step):
    query, key, value, keys, values = step
    want = rotated(query, cos_sin(DIM))
    out = np.empty_like(query)
    options = {"positions": POSITIONS, "cos_sin": cos_sin(DIM)}
    assert kumiko.kv_append(key, value, keys, values, SLOTS, query=query, query_out=out, **options) is out
    assert same(out, want)
    assert kumiko.kv_append(key, value, keys, values, SLOTS, query=query, query_out=query, **options) is query
    assert same(query, want)


def test_caches_of_another_type_layout_and_one_tensor_for_both(random):
    key, value = random.standard_normal((2, TOKENS, HEADS, DIM)).astype(np.float32)
    both = np.full((PAGES, 2, HEADS, SIZE, DIM), 7, np.float16)
    kumiko.kv_append(key, value, both[:, 0], both[:, 1], SLOTS, layout="bhsd")
    for part, rows in enumerate((key, value)):
        have = np.ascontiguousarray(both[:, part].transpose(0, 2, 1, 3))
        assert same(have, stored(have, rows.astype(np.float16)))


def test_a_dense_cache_and_a_batch(random):
    key, value = random.standard_normal((2, 2, HEADS, 3, DIM)).astype(np.float32)
    keys, values = np.zeros((2, 2, HEADS, 5, DIM), np.float32)
    kumiko.kv_append(key, value, keys, values, [1, 2, 3, 5, 6, 7], layout="bhsd")
    for cache, rows in ((keys, key), (values, value)):
        assert same(np.ascontiguousarray(cache[0, :, 1:4]), rows[0]) and same(np.ascontiguousarray(cache[1, :, 0:3]), rows[1])
        assert not cache[0, :, (0, 4)].any() and not cache[1, :, 3:].any()


def test_domains_of_pages_change_no_byte(step):
    _, key, value, keys, values = step
    kumiko.kv_append(key, value, keys, values, SLOTS, page_domains=[0, -1, 0])
    assert same(keys, stored(keys, key)) and same(values, stored(values, value))


def test_a_table_may_be_a_memoryview(step):
    _, key, value, keys, values = step
    wanted = keys.copy(), values.copy()
    kumiko.kv_append(key, value, *wanted, SLOTS, positions=POSITIONS, cos_sin=cos_sin(8))
    kumiko.kv_append(key, value, keys, values, SLOTS, positions=POSITIONS, cos_sin=memoryview(cos_sin(8)))
    assert same(keys, wanted[0]) and same(values, wanted[1])


TABLE = np.zeros((901, 4), np.float32)


@pytest.mark.parametrize("change, error, message", [
    ({"slot_mapping": [9, 2, -1, 9, 0, 11, 4]}, ValueError, r"slot_mapping\[3\] is 9"),
    ({"slot_mapping": [12, 2, -1, 3, 0, 11, 4]}, ValueError, r"slot_mapping\[0\] is 12"),
    ({"slot_mapping": SLOTS[1:]}, ValueError, "slot_mapping is 6 integers; expected 7"),
    ({"slot_mapping": np.zeros(TOKENS)}, ValueError, "slot_mapping.dtype is float64"),
    ({"slot_mapping": np.zeros((TOKENS, 1), np.int64)}, ValueError, r"slot_mapping.shape is \(7, 1\)"),
    ({"positions": [0, 1, 2, 3, 4, 5, -6]}, ValueError, r"positions\[6\] is -6"),
    ({"positions": POSITIONS, "cos_sin": np.zeros((900, DIM), np.float32)}, ValueError, r"positions\[4\] is 900; expected 0..899"),
    ({"positions": POSITIONS, "cos_sin": np.zeros((901, DIM))}, ValueError, "^cos_sin.dtype is float64"),
    ({"positions": POSITIONS, "cos_sin": np.zeros((901, 6), np.float32), "rotary_dim": 8}, ValueError, "^cos_sin.shape"),
    ({"positions": POSITIONS, "cos_sin": np.zeros((901, 7), np.float32)}, ValueError, r"^cos_sin.shape\[1\] is 7; expected an even number"),
    ({"positions": POSITIONS, "cos_sin": np.zeros(901, np.float32)}, ValueError, r"^cos_sin.shape is \(901,\); expected two dimensions"),
    ({"positions": POSITIONS, "cos_sin": (TABLE, None)}, TypeError, r"^cos_sin\[1\] is None; expected a tensor"),
    ({"positions": POSITIONS, "cos_sin": (TABLE, TABLE, TABLE)}, ValueError, r"^cos_sin is of length 3; expected a table, or a pair"),
    ({"positions": POSITIONS, "cos_sin": (TABLE, TABLE[:900])}, ValueError, r"^cos_sin\[1\].shape is \(900, 4\); expected the shape and"),
    # One row for all positions, of which the library would read a table without gaps.
    ({"positions": POSITIONS, "cos_sin": np.broadcast_to(TABLE[0], (901, 4))}, ValueError, r"^cos_sin.stride\[0\] is 0; expected at least 4"),
    ({"positions": POSITIONS, "cos_sin": (TABLE, np.broadcast_to(TABLE[0], (901, 4)))}, ValueError, r"^cos_sin\[1\].stride\[0\] is 0"),
    ({"positions": POSITIONS, "cos_sin": TABLE[::-1]}, ValueError, r"^cos_sin.stride\[0\] is -4; expected at least 4"),
    ({"cos_sin": TABLE}, ValueError, "^positions is None; expected one for each token, as rotary_dim is 4"),
    ({"positions": POSITIONS, "rotary_dim": 7}, ValueError, "rotary_dim is 7"),
    ({"positions": POSITIONS, "rotary_dim": 0}, ValueError, "positions is given; expected None, as rotary_dim is 0"),
    ({"page_domains": [0]}, ValueError, "page_domains is 1 integers; expected 3, one for each page"),
    ({"page_domains": [10**6] * 3}, ValueError, r"page_domains\[[0-2]\] is 1000000; expected -1 or a domain below"),
    ({"key_norm": np.ones(DIM)}, ValueError, "key_norm.dtype is float64"),
    ({"key_norm": np.ones(8, np.float32)}, ValueError, r"key_norm.shape is \(8\)|key_norm.shape is \(8,\)"),
    ({"query_out": np.zeros((TOKENS, 1, DIM), np.float32)}, ValueError, "query_out is given"),
    ({"key": np.zeros((TOKENS, DIM), np.float32)}, ValueError, "key.shape"),
    ({"key": 3}, TypeError, "key is 3"),
    ({"layout": "nhd"}, ValueError, 'layout is "nhd"'),
])  # fmt: skip
def test_bad_arguments_are_named(change, error, message):
    rows = np.zeros((TOKENS, HEADS, DIM), np.float32)
    caches = np.full((2, PAGES, SIZE, HEADS, DIM), 7, np.float32)
    arguments = {"key": rows, "value": rows, "key_cache": caches[0], "value_cache": caches[1], "slot_mapping": SLOTS, **change}
    with pytest.raises(error, match=message):
        kumiko.kv_append(**arguments)
    assert (caches == 7).all()


def test_a_cache_that_cannot_be_written_is_refused():
    rows = np.zeros((TOKENS, HEADS, DIM), np.float32)
    caches = np.zeros((2, PAGES, SIZE, HEADS, DIM), np.float32)
    caches.flags.writeable = False
    with pytest.raises(ValueError, match="key_cache"):
        kumiko.kv_append(rows, rows, caches[0], caches[1], SLOTS)
