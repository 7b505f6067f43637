# SPDX-License-Identifier: Apache-2.0
"""Kumiko as an attention of Hugging Face transformers.

    import kumiko.transformers

    model = AutoModelForCausalLM.from_pretrained(name, attn_implementation="kumiko")

For continuous batching (model.generate_batch), which takes attentions by name:

    kumiko.transformers.use_paged(model)

The import registers it in transformers' registries of attentions and of masks. Grouped queries, caches (dynamic, static,
sliding), windows, softcap and additive biases are computed as they are; causality, windows and padding need no mask of
q_len x kv_len (kumiko._masks). Where the model itself makes such a mask, it is used. Training has attention_backward's
gradients, those of a learned bias included. A call with dropout is computed by PyTorch, with a FallbackWarning under
KUMIKO_VERBOSE=1 as in kumiko.torch.
"""

from itertools import groupby, pairwise

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from . import _paged_cache
from ._attention import attention
from ._masks import Pattern, dense_mask, is_padding, is_reach, kumiko_mask, pattern_of
from ._torch_autograd import recorded_attention
from .torch import define, is_traced, needs_gradient, say_fallback, why_no_gradient, why_not

__all__ = ["kumiko_attention", "kumiko_mask", "use_paged"]

# Continuous batching takes "sdpa", "paged|eager" and any name with "flash" in it; only for the last it makes no mask of
# all queries x all keys.
PAGED = "kumiko_flash"
# What some models give to implementations beside eager and sdpa in place of a mask: keys that a query sees. And sinks of
# each query's own.
_REFUSED = ("indices", "block_indices", "sinks")


def _ranges(q_len, kv_len, batch, pattern: Pattern):
    """Runs of sequences with one range of keys, as (sequences, queries, keys) to call together.

    Bits depend on a key's place from the first one on: keys before a sequence's first are cut off, so that its bits are
    those it has alone, and one call can do that only for sequences of one range. Queries before it stand at padding.
    """
    begins, ends = (x * batch if len(x) != batch else x for x in (pattern.begins, pattern.ends))
    placed = pattern.left >= 0 or pattern.right >= 0  # else every query sees every key of its sequence
    first = 0
    for (begin, end), group in groupby(zip(begins, ends, strict=True)):
        rows = slice(first, first := first + len(list(group)))
        yield rows, slice(0, max(q_len - (kv_len - end), 0) if placed else q_len), slice(begin, end)


def _part_of(bias, rows, queries, keys):
    """Of a bias that broadcasts."""
    if bias is None:
        return None
    one_row, one_query, one_key = (bias.shape[i] == 1 for i in (0, 2, 3))
    whole = slice(None)
    return bias[whole if one_row else rows, :, whole if one_query else queries, whole if one_key else keys]


def _seen(pattern: Pattern):
    """What every call for the pattern has in common."""
    return {"window": (pattern.left, pattern.right) if pattern.left >= 0 or pattern.right >= 0 else None}


def _in_one_call(pattern: Pattern, batch):
    """The terms of one call for the whole batch; None if its sequences need calls of their own."""
    terms = _seen(pattern)
    if pattern.seen is not None:
        return {**terms, "mask": pattern.seen}
    if terms["window"] is None and not any(pattern.begins):
        return {"seqused_k": pattern.ends * (batch // len(pattern.ends))}
    return None


def _cut(mask, k, v, bias):
    """Keys, values and bias without the keys behind the mask's last."""
    used = mask.shape[-1]
    if bias is not None and bias.shape[-1] > 1:
        bias = bias[..., :used]
    return k[:, :, :used], v[:, :, :used], bias


def _has_pattern(mask):
    return mask is not None and (is_reach(mask) or is_padding(mask))


def _attention_cpu(q, k, v, bias, mask, causal, scale, softcap, **packed):
    """[batch, heads, length, dim] each; returns [batch, q_len, q_heads, v_head_dim], as transformers wants it.

    `packed` are cu_seqlens_q and cu_seqlens_k where tokens are those of sequences one after another, without a mask.
    """
    result = q.new_empty((q.shape[0], q.shape[2], q.shape[1], v.shape[3]))
    out = result.transpose(1, 2)
    terms = {"scale": scale, "softcap": softcap}
    if not _has_pattern(mask):
        attention(q, k, v, out=out, causal=causal, bias=bias, mask=mask, **packed, **terms)
        return result
    k, v, bias = _cut(mask, k, v, bias)
    pattern = pattern_of(mask)
    if (whole := _in_one_call(pattern, q.shape[0])) is not None:
        attention(q, k, v, out=out, bias=bias, **whole, **terms)
        return result
    for rows, queries, keys in _ranges(q.shape[2], k.shape[2], q.shape[0], pattern):
        out[rows, :, queries.stop :] = 0
        attention(q[rows, :, queries], k[rows, :, keys], v[rows, :, keys], out=out[rows, :, queries],
                  bias=_part_of(bias, rows, queries, keys), **_seen(pattern), **terms)  # fmt: skip
    return result


def _with_gradients(q, k, v, bias, mask, causal, scale, softcap, **packed):
    """The same as autograd records it."""
    terms = {"scale": scale, "softcap": softcap}
    if not _has_pattern(mask):
        out = recorded_attention(q, k, v, bias, causal=causal, mask=mask, **packed, **terms)
    else:
        k, v, bias = _cut(mask, k, v, bias)
        pattern = pattern_of(mask)
        if (whole := _in_one_call(pattern, q.shape[0])) is not None:
            out = recorded_attention(q, k, v, bias, **whole, **terms)
        else:
            parts = []
            for rows, queries, keys in _ranges(q.shape[2], k.shape[2], q.shape[0], pattern):
                part = recorded_attention(q[rows, :, queries], k[rows, :, keys], v[rows, :, keys],
                                          _part_of(bias, rows, queries, keys), **_seen(pattern), **terms)  # fmt: skip
                parts.append(torch.nn.functional.pad(part, (0, 0, 0, q.shape[2] - queries.stop)))
            out = torch.cat(parts)
    return out.transpose(1, 2).contiguous()


def _attention_fake(q, k, v, bias, mask, causal, scale, softcap):
    return q.new_empty((q.shape[0], q.shape[2], q.shape[1], v.shape[3]))


_OPERATOR = define(
    "attention",
    "(Tensor q, Tensor k, Tensor v, Tensor? bias, Tensor? mask, bool causal, float? scale, float softcap) -> Tensor",
    _attention_cpu,
    _attention_fake,
)


def _in_pytorch(q, k, v, bias, mask, causal, scale, softcap, dropout):
    """The same by PyTorch's operators: with dropout and every dtype, and scores of q_len x kv_len in memory."""
    if mask is not None and is_reach(mask):
        k, v = k[:, :, : mask.shape[-1]], v[:, :, : mask.shape[-1]]
        bias = bias if bias is None else bias[..., : mask.shape[-1]]
        mask = dense_mask(mask, q.shape[2])
    elif causal:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(k.shape[2] - q.shape[2])
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = torch.nn.functional.dropout(scores.softmax(-1), dropout)
    return (weights @ v).transpose(1, 2).contiguous()


def _of_four_dimensions(tensor):
    """[batch, q_heads, q_len, kv_len] of what broadcasts to it."""
    return tensor if tensor is None or tensor.dim() >= 4 else tensor[(None,) * (4 - tensor.dim())]


def _split_mask(attention_mask, position_bias, kv_len):
    """(bias, mask): a floating-point mask is a bias. Some models make them longer than the keys."""
    attention_mask, position_bias = _of_four_dimensions(attention_mask), _of_four_dimensions(position_bias)
    if attention_mask is None:
        return position_bias, None
    if attention_mask.shape[-1] > kv_len:
        attention_mask = attention_mask[..., :kv_len]
    if not attention_mask.is_floating_point():
        return position_bias, attention_mask
    return (attention_mask if position_bias is None else position_bias + attention_mask), None


def _starts(query, key, bias, others):
    """cu_seqlens_q and cu_seqlens_k of what flash attention takes as packed sequences, a vision tower's images for instance."""
    if query.shape[0] != 1:
        raise NotImplementedError(f"cu_seq_lens_q is given with query.shape[0] {query.shape[0]}, expected 1")
    if bias is not None:
        raise NotImplementedError("position_bias is given with cu_seq_lens_q, expected None")
    starts = {}
    for side, tensor in (("q", query), ("k", key)):
        starts[f"cu_seqlens_{side}"] = given = others[f"cu_seq_lens_{side}"].tolist()
        if given[-1] != tensor.shape[2]:
            raise ValueError(f"cu_seq_lens_{side}[-1] is {given[-1]}, expected {tensor.shape[2]}, the number of tokens")
    return starts


def _one_by_one(attend, q, k, v, cu_seqlens_q, cu_seqlens_k):
    """attend(q, k, v) of each packed sequence, for what takes no cu_seqlens."""
    lengths_q, lengths_k = ([end - start for start, end in pairwise(x)] for x in (cu_seqlens_q, cu_seqlens_k))
    sequences = zip(q.split(lengths_q, 2), k.split(lengths_k, 2), v.split(lengths_k, 2), strict=True)
    return torch.cat([attend(*tensors) for tensors in sequences], 1)


def kumiko_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: torch.Tensor | None = None,
    softcap: float | None = None,
    **others,
) -> tuple[torch.Tensor, None]:
    """The attention that transformers calls for attn_implementation="kumiko".

    query           [batch, q_heads, q_len, head_dim]
    key, value      [batch, kv_heads, kv_len, head_dim], q_heads a multiple of kv_heads
    attention_mask  what kumiko_mask() made; or broadcasts to [batch, q_heads, q_len, kv_len]: bool, True where a key is
                    seen, or float, added to the scores. None: all keys, or the causal ones (to the bottom right) if
                    is_causal, by default module.is_causal, says so
    position_bias   broadcasts to the same, added to the scores
    cu_seq_lens_q, cu_seq_lens_k  where packed sequences begin and the last one ends, as for flash attention; used
                    where attention_mask is None

    With transformers' paged cache (continuous batching) batch is 1, tokens are those of all requests, and attention sinks
    (s_aux) are supported.

    Returns ([batch, q_len, q_heads, v_head_dim], None): there are no attention weights. Raises NotImplementedError for
    attention sinks without a paged cache, for gradients, dropout and other dtypes with one, and for what some models give in
    place of a mask (indices, block_indices) or as sinks of each query's own; errors as kumiko.attention().
    """
    for name in _REFUSED:
        if others.get(name) is not None:
            raise NotImplementedError(f'{name} is given: attn_implementation="kumiko" does not take it, expected a model without')
    softcap = 0.0 if softcap is None else softcap
    if others.get("cache") is not None:
        reason = f"dropout is {dropout}, expected 0" if dropout else why_not(query, key, value)
        if reason is None and needs_gradient(query, key, value):
            reason = "a tensor requires a gradient"
        if reason is None and position_bias is not None:
            reason = "position_bias is given, expected None"
        if reason is not None:
            raise NotImplementedError(f"a paged cache: {reason}")
        return _paged(module, query, key, value, scaling, softcap, others.pop("s_aux", None), others), None
    if others.get("s_aux") is not None:
        raise NotImplementedError('s_aux is given: attn_implementation="kumiko" has no attention sinks, expected a model without')
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    causal = bool(is_causal) and attention_mask is None and query.shape[2] > 1
    is_packed = attention_mask is None and others.get("cu_seq_lens_q") is not None and others.get("cu_seq_lens_k") is not None
    packed = _starts(query, key, position_bias, others) if is_packed else {}
    bias, mask = _split_mask(attention_mask, position_bias, key.shape[2])
    reason = f"dropout is {dropout}, expected 0" if dropout else why_not(query, key, value, bias, mask)
    records = reason is None and needs_gradient(query, key, value, bias)
    if records:
        reason = why_no_gradient(query, key, value, bias, mask)
    attend, terms = _attention_cpu, (bias, mask, causal, scaling, softcap)
    if reason is not None:
        say_fallback('attn_implementation="kumiko" is PyTorch\'s', reason)
        attend, terms = _in_pytorch, (*terms, dropout)
    elif records:
        attend = _with_gradients
    elif is_traced(query, key, value, bias, mask):
        attend = _OPERATOR
    if packed and attend in (_in_pytorch, _OPERATOR):
        return _one_by_one(lambda *tensors: attend(*tensors, *terms), query, key, value, **packed), None
    return attend(query, key, value, *terms, **packed), None


def use_paged(model: torch.nn.Module) -> None:
    """Makes Kumiko the attention of `model`, a transformers PreTrainedModel on the CPU, also in continuous batching
    (model.generate_batch and the like), which refuses the name "kumiko". model.set_attn_implementation() ends it."""
    model.config._attn_implementation = PAGED


# Pages are read at addresses that torch.compile cannot follow.
_paged = torch.compiler.disable(_paged_cache.attend)

for _name in ("kumiko", PAGED):
    AttentionInterface.register(_name, kumiko_attention)
    AttentionMaskInterface.register(_name, kumiko_mask)
