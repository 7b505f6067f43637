# SPDX-License-Identifier: Apache-2.0
"""Attention in one call."""

from collections.abc import Sequence
from typing import Any, TypeAlias

from . import _core
from ._core import Context

# Whatever speaks the buffer protocol or DLPack. No type of Python's says so before 3.12.
Tensor: TypeAlias = Any
Window: TypeAlias = "tuple[int | None, int | None] | None"


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """softmax(scale * query key^T + attn_mask) value, with PyTorch's meaning of every argument.

    query      [..., q_heads, q_len, head_dim] of float32, float16 or bfloat16; without heads if it has two dimensions
    key        [..., kv_heads, kv_len, head_dim] of the same type
    value      [..., kv_heads, kv_len, v_head_dim] of the same type
    attn_mask  broadcasts to [..., q_heads, q_len, kv_len]: bool (True: seen) or float (added to the scores)
    dropout_p  only 0
    is_causal  query i sees the keys up to i (aligned to the top left); without attn_mask only
    scale      factor on query key^T; None: 1 / sqrt(head_dim)
    enable_gqa q_heads may be a multiple of kv_heads; otherwise they are equal, or one is 1

    The dimensions before the heads broadcast. head_dim and v_head_dim are 1 to 576, the last strides 1 element.
    Returns [..., q_heads, q_len, v_head_dim], contiguous; rows that see no key are 0. Errors: see the package.
    """
    return _core.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    causal_alignment: str = "bottom_right",
    window: Window = None,
    scale: float | None = None,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    tree_mask: Tensor | None = None,
    bsr_indptr: Tensor | None = None,
    bsr_indices: Tensor | None = None,
    sinks: Tensor | None = None,
    lse_with_sink: bool = True,
    lse_base: str = "natural",
    window_sink_tokens: int = 0,
    causal_sequences: Tensor | Sequence[bool] | None = None,
    prefix_lens: Tensor | Sequence[int] | None = None,
    seqused_k: Tensor | Sequence[int] | None = None,
    cu_seqlens_q: Tensor | Sequence[int] | None = None,
    cu_seqlens_k: Tensor | Sequence[int] | None = None,
    block_table: Tensor | None = None,
    kv_indptr: Tensor | Sequence[int] | None = None,
    q_scale: Tensor | None = None,
    k_scale: Tensor | None = None,
    max_pages: int | None = None,
    bsr_rows: int = 0,
    bsr_keys: int = 0,
    pipeline: str = "automatic",
    precision: str = "automatic",
    kv_domains: Tensor | Sequence[int] | None = None,
    key_layout: str = "rows",
    return_lse: bool = False,
    lse: Tensor | None = None,
    return_row_max: bool = False,
    row_max: Tensor | None = None,
    layout: str = "bhsd",
    out: Tensor | None = None,
    context: Context | None = None,
) -> Any:
    """softmax(scores) v with scores = scale * q k^T, changed as below: exact, and never stored.

    q             [batch, q_heads, q_len, head_dim] of float32, float16, bfloat16 or, with scales, int8
    k             [batch, kv_heads, kv_len, head_dim] of q's type, q_heads a multiple of kv_heads
    v             [batch, kv_heads, kv_len, v_head_dim] of q's type; with q of int8 any of the others
    causal        a query sees the keys up to its place on the causal diagonal
    causal_alignment  where the diagonal ends: "bottom_right", the last query sees every key; "top_left", query i sees
                  the keys up to i
    window        (left, right): a query at key position p sees the keys p - left to p + right; None or -1: no limit
    scale         factor on q k^T; None: 1 / sqrt(head_dim)
    softcap       scores become softcap * tanh(score / softcap); 0: no softcap
    alibi_slopes  float32 [q_heads] or [batch, q_heads]: adds -slope * |p - j| to the score of position p and key j
    bias          added to the scores: float, broadcasts to [batch, q_heads, q_len, kv_len]
    mask          bool, broadcasts to the same: False hides the key from the query
    tree_mask     uint8 [query positions, bytes], a tree of speculative tokens: the query sees key kv_len - q_len + t of its
                  sequence if bit t of its row is set (byte t // 8, from the lowest on; numpy's packbits with bitorder=
                  "little"), t < q_len, and all keys before these
    bsr_indptr, bsr_indices  int32 [n + 1] or [q_heads, n + 1], and [entries], lists of key blocks (FlashInfer's
                  block-sparse rows): n blocks of bsr_rows queries, those of each sequence after the others', and block i
                  sees the blocks of bsr_keys keys bsr_indices[bsr_indptr[i] : bsr_indptr[i + 1]], in rising order
    bsr_rows, bsr_keys  sizes of these blocks
    sinks         float32 [q_heads], attention sinks: exp(sinks[h]) joins the denominator of each row of head h once, as
                  a key of that score with a value of 0 would; -inf: no sink
    lse_with_sink  whether the log-sum-exp counts the sink, as merge_states() needs it; of the states of one row only one
                  may have the sink
    lse_base      unit of the log-sum-exp: "natural", or "two", log2(e) times that
    window_sink_tokens  first keys of each sequence that stay visible besides the window (StreamingLLM); causality
                  applies to them
    causal_sequences  [batch] of bool: whether a sequence is causal, in the place of causal
    prefix_lens   [batch] integers: keys of each sequence that all its queries see whatever causal and the window's right
                  side say (prefix LM)
    seqused_k     [batch] integers: used keys of each sequence; later ones are never read, and the causal diagonal ends
                  at this number
    cu_seqlens_q  [num_sequences + 1] integers, from 0 and never falling: q has batch size 1, and sequence b its queries
                  from cu_seqlens_q[b] to cu_seqlens_q[b + 1]. Then "batch" means num_sequences in seqused_k,
                  alibi_slopes and kv_domains, but 1 in bias and mask
    cu_seqlens_k  the same for the keys of k and v; columns of bias and mask count from a sequence's first key
    block_table   int32 [num_sequences, max_pages]: key j of sequence b is row j % page_size of page block_table[b, j //
                  page_size]. k is [pages, kv_heads, page_size, head_dim] then, v as well, page_size at most 512, and
                  seqused_k must be given; kv_len is max_pages * page_size
    kv_indptr     [num_sequences + 1] integers, never falling, from 0 or more on: block_table is one list, int32 [pages of all
                  sequences] as FlashInfer's kv_indices, and page i of sequence b is block_table[kv_indptr[b] + i]. seqused_k
                  is (pages - 1) * page_size + FlashInfer's kv_last_page_len, 0 without pages
    max_pages     with kv_indptr: the most pages that a sequence may have; None: the most that one has in kv_indptr
    q_scale, k_scale  of int8 q and k: float32 that broadcasts to [batch, q_heads, q_len] and [batch, kv_heads, kv_len]
                  (with pages [pages, kv_heads, page_size]) whatever the layout, an element being its integer times its
                  row's scale (quantize_rows); None: 1
    pipeline      order of work: "automatic", "online", "decode", "two_pass", "interleaved", "three_pass"; every choice
                  gives the same bits
    precision     what the products multiply: "standard", float32; "half", the tensors' 16-bit type, where the
                  instruction set has kernels for it; "int8", int8 q and k; "automatic", KUMIKO_PRECISION or the
                  instruction set's choice
    kv_domains    [batch, kv_heads] integers: domain whose memory holds a KV head (Context.allocate), -1 for any
    key_layout    how k lies in its pages: "rows", or "tiles_of_16" as kv_append and pack_key_pages write it. Then k has the
                  shape of its rows still, with strides of head_dim (of 16-bit types rounded up to an even number) and 1 for
                  key and dim; layout "bhsd" has these for a contiguous tensor
    return_lse    also return the log-sum-exp of each query's scores
    lse           float32 [batch, q_heads, q_len] to write it to
    return_row_max  also return the largest of each query's scores, after softcap, bias and alibi_slopes, in natural units;
                  sinks do not count
    row_max       float32 [batch, q_heads, q_len] to write it to
    layout        "bhsd" as above, or "bshd": q, k, v and out are [batch, length, heads, dim]
    out           to write to: shaped as q but for v_head_dim, of v's type or float32, apart from every input
    context       threads to run on; None: default_context()

    The scores' terms apply in the order softcap, bias, alibi_slopes, mask. head_dim and v_head_dim are 1 to 576; tensors have any
    strides that are not negative, with a last one of 1 element.
    Returns out, or (out, lse), (out, row_max), (out, lse, row_max); rows that see no key are 0, with a log-sum-exp and a
    largest score of -inf, and those behind the last packed sequence are not written. Errors: see the package.
    """
    # The order of both is that of python/src/call.h.
    return _core.attention(
        q, k, v,
        (causal, causal_alignment, window, scale, softcap, lse_with_sink, lse_base, window_sink_tokens, causal_sequences,
         prefix_lens, seqused_k, cu_seqlens_q, cu_seqlens_k, max_pages, bsr_rows, bsr_keys, pipeline, kv_domains,
         key_layout, precision),
        (alibi_slopes, bias, mask, tree_mask, bsr_indptr, bsr_indices, sinks, block_table, kv_indptr,
         q_scale, k_scale),
        (return_lse, lse, return_row_max, row_max), layout, out, context,
    )  # fmt: skip
