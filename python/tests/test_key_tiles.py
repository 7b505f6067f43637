# SPDX-License-Identifier: Apache-2.0
"""Keys in tiles of 16: packed, appended and read with the bits of rows, and what is refused."""

import numpy as np
import pytest

import kumiko

PAGES, HEADS, SIZE, DIM = 5, 2, 32, 7


def tiles_like(rows):
    """An array of tiles for [pages, heads, page_size, dim] rows: of 16-bit types, a dim more if that is odd."""
    width = rows.shape[3] + (rows.shape[3] % 2 if rows.itemsize == 2 else 0)
    return np.zeros((*rows.shape[:3], width), rows.dtype)[..., : rows.shape[3]]


def packed_by_numpy(rows):
    """The layout written out."""
    count = 4 // rows.itemsize
    width = -(-rows.shape[3] // count) * count
    padded = np.zeros((*rows.shape[:3], width), rows.dtype)
    padded[..., : rows.shape[3]] = rows
    pages, heads, size, _ = rows.shape
    lines = padded.reshape(pages, heads, size // 16, 16, width // count, count)
    return np.ascontiguousarray(lines.transpose(0, 1, 2, 4, 3, 5)).reshape(pages, heads, size, width)


@pytest.fixture
def rows(random, dtype):
    return random.standard_normal((PAGES, HEADS, SIZE, DIM)).astype(dtype)


def test_packing_and_unpacking(rows):
    tiles = tiles_like(rows)
    kumiko.pack_key_pages(rows, tiles, layout="bhsd")
    assert tiles.base.tobytes() == packed_by_numpy(rows).tobytes()
    back = np.zeros_like(rows)
    kumiko.unpack_key_pages(tiles, back, layout="bhsd")
    assert back.tobytes() == rows.tobytes()
    again = tiles_like(rows)  # the default order of dimensions
    kumiko.pack_key_pages(rows.transpose(0, 2, 1, 3), again.transpose(0, 2, 1, 3))
    assert again.base.tobytes() == tiles.base.tobytes()


def test_attention_has_the_bits_of_rows(rows, random):
    tiles, values = tiles_like(rows), random.standard_normal(rows.shape).astype(rows.dtype)
    kumiko.pack_key_pages(rows, tiles, layout="bhsd")
    table, used = np.array([[3, 0], [1, 4]], np.int32), [50, 33]
    query = random.standard_normal((2, 4, 1, DIM)).astype(rows.dtype)
    want = kumiko.attention(query, rows, values, block_table=table, seqused_k=used)
    got = kumiko.attention(query, tiles, values, block_table=table, seqused_k=used, key_layout="tiles_of_16")
    assert got.tobytes() == want.tobytes()
    plan = kumiko.Plan(query, tiles, values, block_table=table, seqused_k=used, key_layout="tiles_of_16")
    assert plan.run(query, tiles, values, block_table=table).tobytes() == want.tobytes()
    assert "in tiles of 16" in plan.explain()
    with kumiko.Stream() as stream:
        ticket = stream.attention(query, tiles, values, block_table=table, seqused_k=used, key_layout="tiles_of_16")
        assert ticket.wait().tobytes() == want.tobytes()


def test_appended_keys_are_those_of_packed_rows(rows, random):
    tokens, slots = 40, [*range(20, 52), *range(100, 108)]
    key, value = random.standard_normal((2, tokens, HEADS, DIM)).astype(rows.dtype)
    values, tiles, streamed = np.zeros_like(rows), tiles_like(rows), tiles_like(rows)
    in_rows, packed = np.zeros_like(rows), tiles_like(rows)
    place = {"positions": list(range(tokens)), "rotary_dim": 4, "layout": "bhsd"}
    kumiko.kv_append(key, value, in_rows, values, slots, **place)
    kumiko.pack_key_pages(in_rows, packed, layout="bhsd")
    kumiko.kv_append(key, value, tiles, values, slots, key_layout="tiles_of_16", **place)
    assert tiles.base.tobytes() == packed.base.tobytes()
    with kumiko.Stream() as stream:
        stream.kv_append(key, value, streamed, values, slots, key_layout="tiles_of_16", **place).wait()
    assert streamed.base.tobytes() == packed.base.tobytes()


def test_what_is_refused(rows):
    tiles = tiles_like(rows)
    query = rows[:2, :, :1]
    with pytest.raises(ValueError, match=r"^key_layout is \"columns\"; expected \"rows\", \"tiles_of_16\""):
        kumiko.attention(query, tiles, rows, key_layout="columns")
    with pytest.raises(ValueError, match=r"^key_layout is tiles_of_16 \(1\); expected rows \(0\), as block_table is None"):
        kumiko.attention(query, tiles[:2], rows[:2], key_layout="tiles_of_16")
    with pytest.raises(ValueError, match=r"^tiles.shape\[2\] \(seq\) is 24; expected a multiple of 16"):
        kumiko.pack_key_pages(rows[:, :, :24], tiles[:, :, :24], layout="bhsd")
    with pytest.raises(ValueError, match="expected memory apart from rows"):
        same = np.zeros((PAGES, HEADS, SIZE, 8), rows.dtype)
        kumiko.pack_key_pages(same, same, layout="bhsd")
