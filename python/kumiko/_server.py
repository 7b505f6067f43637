# SPDX-License-Identifier: Apache-2.0
"""Calls of a text server, with the arguments of FlashAttention's functions for it."""

from collections.abc import Sequence
from typing import Any

from ._attention import Tensor, attention
from ._core import Context


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

    max_seqlen_q, max_seqlen_k and deterministic are taken and not needed: every result is deterministic. dropout_p must
    be 0 and return_attn_probs false. Tensors are arrays that take q[None], such as those of numpy, PyTorch and JAX.
    Returns out [total_q, q_heads, v_head_dim], or (out, lse [q_heads, total_q]). Errors: see the package.
    """
    _refuse(dropout_p=dropout_p, return_attn_probs=return_attn_probs)
    used = None
    if block_table is not None:
        starts = [int(start) for start in cu_seqlens_k]
        used = [end - start for start, end in zip(starts, starts[1:], strict=False)]
    paged = block_table is not None
    result, lse = attention(
        q[None], k if paged else k[None], v if paged else v[None], causal=causal, window=window_size, scale=softmax_scale,
        softcap=softcap, alibi_slopes=alibi_slopes, seqused_k=used, cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=None if paged else cu_seqlens_k, block_table=block_table, return_lse=True, layout="bshd",
        out=None if out is None else out[None], context=context,
    )  # fmt: skip
    result = result[0] if out is None else out
    return (result, lse[0]) if return_lse else result


def attention_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    cache_seqlens: Tensor | Sequence[int] | int | None = None,
    block_table: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    return_softmax_lse: bool = False,
    *,
    out: Tensor | None = None,
    context: Context | None = None,
) -> Any:
    """Attention over a cache of keys and values, as FlashAttention's flash_attn_with_kvcache without its arguments that
    write to the cache: write the new rows first by kv_append(), then call.

    q              [batch, q_len, q_heads, head_dim] of float32, float16 or bfloat16
    k_cache        [batch, capacity, kv_heads, head_dim], or with block_table [pages, page_size, kv_heads, head_dim]
    v_cache        the same with v_head_dim
    cache_seqlens  keys in use of each sequence, the new ones included: [batch] integers or one for all; None: all of them
    block_table    int32 [batch, max_pages]; cache_seqlens must be given
    causal, window_size, softcap, alibi_slopes, softmax_scale, out, context  as in varlen_attention()

    Returns out [batch, q_len, q_heads, v_head_dim], or (out, lse [batch, q_heads, q_len]). Errors: see the package.
    """
    used = [cache_seqlens] * q.shape[0] if isinstance(cache_seqlens, int) else cache_seqlens
    return attention(
        q, k_cache, v_cache, causal=causal, window=window_size, scale=softmax_scale, softcap=softcap,
        alibi_slopes=alibi_slopes, seqused_k=used, block_table=block_table, return_lse=return_softmax_lse, layout="bshd",
        out=out, context=context,
    )  # fmt: skip


def _refuse(**options: Any) -> None:
    for name, value in options.items():
        if value:
            raise NotImplementedError(f"{name} is {value}; expected {type(value)(0)}")
