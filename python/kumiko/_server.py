# SPDX-License-Identifier: Apache-2.0
"""Calls of a text server, with the arguments of FlashAttention's functions for it."""

from collections.abc import Sequence
from typing import Any

from ._attention import Tensor, attention
from ._core import Context
from ._kvcache import ERRORS, Rotary, append, integers_of, is_one, lengths_of, renamed

_NAMES = {"scale": "softmax_scale", "window": "window_size"}  # what attention calls the arguments
_OF_CACHE = {**_NAMES, "k": "k_cache", "v": "v_cache", "seqused_k": "cache_seqlens"}


def varlen_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor | Sequence[int],
    cu_seqlens_k: Tensor | Sequence[int],
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Tensor | None = None,
    *,
    sinks: Tensor | None = None,
    return_lse: bool = False,
    out: Tensor | None = None,
    context: Context | None = None,
) -> Any:
    """Attention over packed sequences of different lengths, as FlashAttention's flash_attn_varlen_func.

    q             [total_q, q_heads, head_dim] of float32, float16 or bfloat16
    k             [total_k, kv_heads, head_dim], or with block_table [pages, page_size, kv_heads, head_dim]
    v             [total_k, kv_heads, v_head_dim], or with block_table [pages, page_size, kv_heads, v_head_dim]
    cu_seqlens_q  [num_sequences + 1] integers, from 0 and never falling: sequence b has the queries
                  cu_seqlens_q[b] to cu_seqlens_q[b + 1]
    cu_seqlens_k  the same for keys; with block_table its differences are the lengths
    softmax_scale factor on q k^T; None: 1 / sqrt(head_dim)
    causal        the last query of a sequence sees every key of it, the one before all but one, ...
    window_size   (left, right) keys seen around a query's place; -1: no limit
    softcap, alibi_slopes, out, return_lse, context  as in attention(); alibi_slopes of [num_sequences, q_heads], too
    block_table   int32 [num_sequences, max_pages]
    sinks         float32 [q_heads], FlashAttention-3's s_aux: exp(sinks[h]) joins the denominator of each row of head h once;
                  lse counts it

    max_seqlen_q, max_seqlen_k and deterministic are taken and not needed: every result is deterministic. dropout_p must
    be 0 and return_attn_probs false. Tensors are arrays that take q[None], such as those of numpy, PyTorch and JAX.
    Returns out [total_q, q_heads, v_head_dim], or (out, lse [q_heads, total_q]). Errors: see the package.
    """
    _refuse(dropout_p=dropout_p, return_attn_probs=return_attn_probs)
    paged = block_table is not None
    used = None
    if paged:
        starts = integers_of("cu_seqlens_k", cu_seqlens_k)
        used = [end - start for start, end in zip(starts, starts[1:], strict=False)]
    for name, tensor, dims in (("q", q, 3), ("k", k, 3 + paged), ("v", v, 3 + paged), ("out", out, 3)):
        if tensor is not None and len(tensor.shape) != dims:
            expected = "four dimensions: pages, page_size, kv_heads, dim" if dims == 4 else "three dimensions: tokens, heads, dim"
            raise ValueError(f"{name}.shape is {tuple(tensor.shape)}; expected {expected}")
    try:
        result, lse = attention(
            q[None], k if paged else k[None], v if paged else v[None], causal=causal, window=window_size, scale=softmax_scale,
            softcap=softcap, alibi_slopes=alibi_slopes, sinks=sinks, seqused_k=used, cu_seqlens_q=cu_seqlens_q,
            cu_seqlens_k=None if paged else cu_seqlens_k, block_table=block_table, return_lse=True, layout="bshd",
            out=None if out is None else out[None], context=context,
        )  # fmt: skip
    except ERRORS as error:
        lengths = {f"seqused_k[{b}]": f"cu_seqlens_k[{b + 1}] - cu_seqlens_k[{b}]" for b in range(len(used or ()))}
        raise renamed(error, {**_NAMES, **lengths}) from error.__cause__
    result = result[0] if out is None else out
    return (result, lse[0]) if return_lse else result


def attention_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    rotary_cos: Tensor | None = None,
    rotary_sin: Tensor | None = None,
    cache_seqlens: Tensor | Sequence[int] | int | None = None,
    cache_batch_idx: None = None,
    cache_leftpad: None = None,
    block_table: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    alibi_slopes: Tensor | None = None,
    num_splits: int = 0,
    return_softmax_lse: bool = False,
    *,
    sinks: Tensor | None = None,
    out: Tensor | None = None,
    context: Context | None = None,
) -> Any:
    """Attention over a cache of keys and values, as FlashAttention's flash_attn_with_kvcache: new keys and values are
    written to the cache first, rotated if asked for.

    q              [batch, q_len, q_heads, head_dim] of float32, float16 or bfloat16
    k_cache        [batch, capacity, kv_heads, head_dim], or with block_table [pages, page_size, kv_heads, head_dim]
    v_cache        the same with v_head_dim
    k, v           [batch, new, kv_heads, head_dim] and v_head_dim: written in place behind the keys in use; attention sees
                   them. Both or none
    rotary_cos     float32 [positions, rotary_dim / 2], with k only: k is rotated by the positions cache_seqlens + i as it is
                   written, and q for this call: query i by cache_seqlens + i if causal or with a window, otherwise all by
                   cache_seqlens. q itself is not written to
    rotary_sin     the same shape
    cache_seqlens  keys in use of each sequence, without k's: [batch] integers or one for all; None, without k: all of them
    block_table    int32 [batch, max_pages]; cache_seqlens must be given
    rotary_interleaved  pairs are neighbours (GPT-J); otherwise halves (GPT-NeoX, Llama, Qwen)
    causal, window_size, softcap, alibi_slopes, softmax_scale, sinks, out, context  as in varlen_attention()

    num_splits is taken and not needed. cache_batch_idx and cache_leftpad must be None. What k and v may not be is an error
    before anything is written. An error of the attention after that, such as an out of another shape, leaves the new rows
    in the cache; the same call again writes the same bytes there.
    Returns out [batch, q_len, q_heads, v_head_dim], or (out, lse [batch, q_heads, q_len]). Errors: see the package.
    """
    for name, value in (("cache_batch_idx", cache_batch_idx), ("cache_leftpad", cache_leftpad)):
        if value is not None:
            raise NotImplementedError(f"{name} is given; expected None")
    used = cache_seqlens
    if k is not None:
        has_window = window_size is not None and any(side not in (None, -1) for side in window_size)
        rotary = Rotary(rotary_cos, rotary_sin, rotary_interleaved, not (causal or has_window))
        q, used = append(q, k_cache, v_cache, k, v, rotary, cache_seqlens, block_table, context)
    else:
        for name, value in (("v", v), ("rotary_cos", rotary_cos), ("rotary_sin", rotary_sin)):
            if value is not None:
                raise ValueError(f"{name} is given; expected None, as k is None")
        used = lengths_of(cache_seqlens, q.shape[0]) if is_one(cache_seqlens) else cache_seqlens
    try:
        return attention(
            q, k_cache, v_cache, causal=causal, window=window_size, scale=softmax_scale, softcap=softcap,
            alibi_slopes=alibi_slopes, sinks=sinks, seqused_k=used, block_table=block_table, return_lse=return_softmax_lse,
            layout="bshd", out=out, context=context,
        )  # fmt: skip
    except ERRORS as error:
        raise renamed(error, _OF_CACHE) from error.__cause__


def _refuse(**options: Any) -> None:
    for name, value in options.items():
        if value:
            raise NotImplementedError(f"{name} is {value}; expected {type(value)(0)}")
