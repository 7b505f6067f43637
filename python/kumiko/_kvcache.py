# SPDX-License-Identifier: Apache-2.0
"""The part of FlashAttention's flash_attn_with_kvcache that writes to the cache and rotates."""

import re
from collections.abc import Sequence
from numbers import Integral
from operator import index
from typing import Any, NamedTuple

from ._append import kv_append
from ._attention import Tensor
from ._core import Context

ERRORS = (TypeError, ValueError, NotImplementedError)
# What kv_append calls the arguments.
_NAMES = {
    "key_cache": "k_cache", "value_cache": "v_cache", "key": "k", "value": "v", "query": "q",
    "cos_sin[0]": "rotary_cos", "cos_sin[1]": "rotary_sin",
}  # fmt: skip


def is_one(cache_seqlens: Tensor | Sequence[int] | int | None) -> bool:
    """Whether it is one number for all sequences."""
    return isinstance(cache_seqlens, Integral) or getattr(cache_seqlens, "ndim", None) == 0


def integers_of(name: str, numbers: Tensor | Sequence[int]) -> list[int]:
    """The numbers of a list or of a tensor with one dimension."""
    integers = []
    for i, number in enumerate(list_of(numbers)):
        try:
            integers.append(index(number))
        except TypeError:
            raise TypeError(f"{name}[{i}] is {number} ({type(number).__name__}); expected an integer") from None
    return integers


def renamed(error: Exception, table: dict[str, str]) -> Exception:
    """The error of a call with the names that `table` gives to its arguments."""
    known = "|".join(re.escape(name) for name in sorted(table, key=len, reverse=True))
    return type(error)(re.sub(rf"(?<![\w.\"'])(?:{known})(?!\w)", lambda name: table[name[0]], str(error)))


class Rotary(NamedTuple):
    """Tables of [positions, rotary_dim / 2], or None, and how pairs and queries are rotated."""

    cos: Tensor | None
    sin: Tensor | None
    is_interleaved: bool
    has_one_position: bool  # all queries of a sequence stand where its first new key does


def lengths_of(cache_seqlens: Tensor | Sequence[int] | int, batch: int) -> list[int]:
    """[batch] numbers of keys in use."""
    if is_one(cache_seqlens):
        return integers_of("cache_seqlens", [cache_seqlens]) * batch
    lengths = integers_of("cache_seqlens", cache_seqlens)
    if len(lengths) != batch:
        raise ValueError(f"cache_seqlens is {len(lengths)} integers; expected {batch}, one for each sequence")
    return lengths


def append(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor,
    v: Tensor | None,
    rotary: Rotary,
    cache_seqlens: Tensor | Sequence[int] | int | None,
    block_table: Tensor | None,
    context: Context | None,
) -> tuple[Any, list[int]]:
    """Writes k and v behind the keys in use. Returns the queries, rotated if there are tables, and the new lengths."""
    if v is None:
        raise ValueError("v is None; expected the values of k")
    if cache_seqlens is None:
        raise ValueError("cache_seqlens is None; expected the keys of each sequence before the new ones, as k is given")
    if k.ndim != 4 or k.shape[0] != q.shape[0]:
        expected = f"four dimensions: batch, which is {q.shape[0]} in q, new keys, kv_heads, dim"
        raise ValueError(f"k.shape is {tuple(k.shape)}; expected {expected}")
    batch, new = q.shape[0], k.shape[1]
    used = lengths_of(cache_seqlens, batch)
    slots = _slots(used, new, k_cache, block_table, batch)
    after = [length + new for length in used]
    if rotary.cos is None and rotary.sin is None:
        _kv_append(k, v, k_cache, v_cache, slots, context=context)
        return q, after
    _check_tables(rotary, max(used, default=0) + max(new, 1 if rotary.has_one_position else q.shape[1]))
    options = {"cos_sin": (rotary.cos, rotary.sin), "interleaved": rotary.is_interleaved, "context": context}
    places = [length + i for length in used for i in range(new)]
    if q.shape[1] == new and (new == 1 or not rotary.has_one_position):
        return _kv_append(k, v, k_cache, v_cache, slots, query=q, positions=places, **options), after
    _kv_append(k, v, k_cache, v_cache, slots, positions=places, **options)
    places = [length + (0 if rotary.has_one_position else i) for length in used for i in range(q.shape[1])]
    # The queries alone: keys that are stored nowhere, in a cache without pages.
    rows, none = q[:, :, : k_cache.shape[2]], k_cache[:0]
    return _kv_append(rows, rows, none, none, [-1] * len(places), query=q, positions=places, **options), after


def list_of(numbers: Tensor | Sequence[int]) -> Sequence[Any]:
    return numbers.tolist() if hasattr(numbers, "tolist") else numbers


def _kv_append(*arguments: Any, **options: Any) -> Any:
    """kv_append, with errors that have this call's names."""
    try:
        return kv_append(*arguments, **options)
    except ERRORS as error:
        raise renamed(error, _NAMES) from error.__cause__


def _check_tables(rotary: Rotary, positions: int) -> None:
    for name, table in (("rotary_cos", rotary.cos), ("rotary_sin", rotary.sin)):
        if table is None:
            raise ValueError(f"{name} is None; expected a table, as the other one is given")
        if table.ndim != 2:
            raise ValueError(f"{name}.shape is {tuple(table.shape)}; expected two dimensions: positions, rotary_dim / 2")
        if table.shape[0] < positions:
            raise ValueError(
                f"{name}.shape[0] is {table.shape[0]}; expected at least {positions}, for every position of k and q"
            )


def _slots(used: list[int], new: int, k_cache: Tensor, block_table: Tensor | None, batch: int) -> list[int]:
    """Where each new key goes, in rows of the cache."""
    rows = k_cache.shape[1]
    if block_table is None and k_cache.shape[0] != batch:
        raise ValueError(f"k_cache.shape[0] is {k_cache.shape[0]}; expected {batch}, as in q")
    if block_table is not None and (block_table.ndim != 2 or block_table.shape[0] != batch):
        shape = tuple(block_table.shape)
        raise ValueError(f"block_table.shape is {shape}; expected two dimensions, ({batch}, max_pages)")
    capacity = rows if block_table is None else block_table.shape[1] * rows
    slots: list[int] = []
    writers: dict[int, str] = {}
    for b, begin in enumerate(used):
        if begin < 0 or begin + new > capacity:
            why = f"as the cache has room for {capacity} keys and {new} are new"
            raise ValueError(f"cache_seqlens[{b}] is {begin}; expected 0..{capacity - new}, {why}")
        if block_table is None:
            slots.extend(range(b * rows + begin, b * rows + begin + new))
            continue
        first = begin // rows if new else 0
        last = -(-(begin + new) // rows) if new else 0
        for i, page in enumerate(list_of(block_table[b, first:last]), first):
            name = f"block_table[{b}, {i}]"
            if not 0 <= page < k_cache.shape[0]:
                why = f"as keys of sequence {b} are written to this page"
                raise ValueError(f"{name} is {page}; expected 0..{k_cache.shape[0] - 1}, {why}")
            for row in range(max(begin - i * rows, 0), min(begin + new - i * rows, rows)):
                slot = page * rows + row
                if (other := writers.setdefault(slot, name)) != name:
                    why = "which has new keys in the same rows"
                    raise ValueError(f"{name} is {page}; expected another page than {other}, {why}")
                slots.append(slot)
    return slots
