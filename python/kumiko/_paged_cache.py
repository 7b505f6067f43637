# SPDX-License-Identifier: Apache-2.0
"""Attention over transformers' paged cache, the one of continuous batching, where its pages lie.

A full-attention layer's new keys and values go to their slots by kv_append, and its pages are read in place. A layer with a
sliding window keeps a ring, whose old keys a step overwrites: there transformers copies what the window shows.
"""

from typing import Any

import torch

from ._append import kv_append
from ._attention import attention
from ._server import varlen_attention


def attend(module, query, key, value, scale: float | None, softcap: float, sinks: torch.Tensor | None, given: dict[str, Any]) -> torch.Tensor:
    """query [1, q_heads, tokens, head_dim], key and value [1, kv_heads, tokens, dim] of a step's packed tokens; `given` is what
    continuous batching passes beside them. Returns [1, tokens, q_heads, v_head_dim]; 0 for tokens of no request."""
    cache = given.pop("cache")
    allocator = cache.layer_to_allocator[module.layer_idx]
    starts_q = given["cu_seq_lens_q"]
    q = query[0].transpose(0, 1)
    out = query.new_empty((*q.shape[:2], value.shape[-1]))
    out[int(starts_q[-1]) :] = 0
    terms = {"softcap": softcap, "sinks": None if sinks is None else sinks.float(), "out": out}
    window = given.get("sliding_window")
    read = given["read_index"][allocator.index]
    if window is not None or read.numel() == 0:  # without keys of earlier steps the new ones are all
        keys, values = cache.update(key_states=key, value_states=value, layer_idx=module.layer_idx, kwargs=given)
        varlen_attention(
            q, keys[0].transpose(0, 1), values[0].transpose(0, 1), starts_q, given["cu_seq_lens_k"], softmax_scale=scale, causal=True,
            window_size=(-1 if window is None else window - 1, -1), **terms,
        )  # fmt: skip
        return out[None]
    pages_k, pages_v = allocator.get_cache_for_block_table(module.layer_idx)
    # A block has pages of keys and of values in turn, of all layers of a kind, and both views all of them.
    page, block = pages_k.shape[1], allocator.block_physical_stride
    pages_k, pages_v = pages_k[:: block // page], pages_v[:: block // page]
    write = given["write_index"][allocator.index]
    slots = torch.where(write == allocator.write_trash_index, -1, write // block * page + write % block)
    kv_append(key[0].transpose(0, 1), value[0].transpose(0, 1), pages_k, pages_v, slots)
    used, first, table = _pages(read, given["cu_seq_lens_k"][allocator.layer_type], page, block)
    attention(
        q[None], pages_k, pages_v, causal=True, scale=scale, seqused_k=used, cu_seqlens_q=starts_q, block_table=table, kv_indptr=first,
        layout="bshd", **{**terms, "out": out[None]},
    )  # fmt: skip
    return out[None]


def _pages(read: torch.Tensor, starts: torch.Tensor, page: int, block: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keys of each request, and its pages as a list with kv_indptr: every page's first slot stands in `read`."""
    used = starts.diff()
    count = (used + page - 1) // page
    first = torch.nn.functional.pad(count.cumsum(0), (1, 0))
    at = torch.arange(int(first[-1])) - first[:-1].repeat_interleave(count)  # a page's number in its request
    slots = read[starts[:-1].repeat_interleave(count) + at * page]
    return used.int(), first.int(), (slots // block).int()
