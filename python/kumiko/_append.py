# SPDX-License-Identifier: Apache-2.0
"""Writing to a cache of keys and values."""

from collections.abc import Sequence
from typing import Any

from . import _core
from ._attention import Tensor
from ._core import Context


def kv_append(
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping: Tensor | Sequence[int],
    *,
    query: Tensor | None = None,
    query_out: Tensor | None = None,
    positions: Tensor | Sequence[int] | None = None,
    rotary_dim: int | None = None,
    interleaved: bool = False,
    cos_sin: Tensor | tuple[Tensor, Tensor] | None = None,
    rope_theta: float = 10000.0,
    rope_scale: float = 1.0,
    key_norm: Tensor | None = None,
    query_norm: Tensor | None = None,
    norm_eps: float = 1e-6,
    layout: str = "bshd",
    key_layout: str = "rows",
    page_domains: Tensor | Sequence[int] | None = None,
    context: Context | None = None,
) -> Any:
    """Writes the keys and values of new tokens into the pages of a cache, in place, as vLLM's reshape_and_cache_flash;
    with rotary position embedding and QK-RMSNorm on the way, for the queries of the step, too.

    key, value    [tokens, kv_heads, head_dim] and [tokens, kv_heads, v_head_dim]
    key_cache     [pages, page_size, kv_heads, head_dim], any strides; a dense cache has pages of its capacity
    value_cache   [pages, page_size, kv_heads, v_head_dim], the same pages
    slot_mapping  [tokens] integers: token t goes to row slot % page_size of page slot // page_size; -1: nowhere. A slot
                  out of range, or of two tokens, is an error, and nothing is written
    query         [tokens, q_heads, head_dim]; norm and rotation apply to it as well
    query_out     to write them to; it may be query itself. None: a new tensor
    positions     [tokens] integers: rotate keys and queries by these positions. None: no rotation
    rotary_dim    elements that are rotated, from the first on, even; None: the width of cos_sin, or head_dim
    interleaved   pairs are neighbours (GPT-J); otherwise halves (GPT-NeoX, Llama, Qwen)
    cos_sin       float32 tables: [max_position, rotary_dim] with the cosines before the sines, as vLLM's cos_sin_cache, or
                  a pair (cos, sin) of [max_position, rotary_dim / 2] each. None: computed in float64 for the angle
                  position * rope_scale * rope_theta ** (-2 i / rotary_dim)
    key_norm      float32 [head_dim]: weights of an RMSNorm of every key before its rotation (Qwen3; for Gemma 3 pass 1 + w)
    query_norm    the same for queries
    layout        "bshd" as above, or "bhsd": caches are [pages, kv_heads, page_size, dim]. key, value and query may have
                  four dimensions in this order, batch and length in place of tokens; numbers per token are then flat
    key_layout    "rows", or "tiles_of_16": key_cache has pages of tiles, as attention() takes them
    page_domains  [pages] integers: domain whose memory holds a page (Context.allocate), -1 for any; tokens go to its cores

    Each tensor has its own type, float32, float16 or bfloat16; rows are computed in float32 and rounded once. The bytes
    of a token depend on nothing but that token. Returns query_out, or None without a query. Errors: see the package.
    """
    return _core.kv_append(
        *arguments_of(key, value, key_cache, value_cache, slot_mapping, query, query_out, positions, rotary_dim, interleaved,
                      cos_sin, rope_theta, rope_scale, key_norm, query_norm, norm_eps, layout, key_layout, page_domains),
        context,
    )  # fmt: skip


def pack_key_pages(rows: Tensor, tiles: Tensor, *, layout: str = "bshd", context: Context | None = None) -> None:
    """Copies the keys of pages from rows into tiles of 16 (key_layout of attention()), bit for bit.

    rows    [pages, page_size, kv_heads, head_dim] of float32, float16 or bfloat16, any strides, page_size a multiple of 16
    tiles   to write to: the same shape and type, with strides of tiles, apart from rows
    layout  "bshd" as above, or "bhsd": [pages, kv_heads, page_size, head_dim]

    Errors: see the package.
    """
    _core.convert_key_pages(rows, tiles, True, layout, context)


def unpack_key_pages(tiles: Tensor, rows: Tensor, *, layout: str = "bshd", context: Context | None = None) -> None:
    """Copies the keys of pages from tiles of 16 into rows: pack_key_pages() the other way round."""
    _core.convert_key_pages(tiles, rows, False, layout, context)


def arguments_of(
    key, value, key_cache, value_cache, slot_mapping, query, query_out, positions, rotary_dim, interleaved, cos_sin, rope_theta,
    rope_scale, key_norm, query_norm, norm_eps, layout, key_layout, page_domains,
):  # fmt: skip
    """The arguments of kv_append in the order in which _core takes them."""
    return (
        key, value, key_cache, value_cache, slot_mapping, query, query_out, positions, rotary_dim, interleaved, cos_sin, rope_theta,
        rope_scale, key_norm, query_norm, norm_eps, layout, key_layout, page_domains,
    )  # fmt: skip
