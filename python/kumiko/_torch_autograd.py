# SPDX-License-Identifier: Apache-2.0
"""scaled_dot_product_attention for PyTorch's autograd: the forward call keeps its result and log-sum-exp, the backward is ours."""

import torch
from torch.autograd.function import once_differentiable

from ._attention import attention
from ._backward import attention_backward


class _Attention(torch.autograd.Function):
    """[batch, heads, length, dim] tensors, key and value with a number of heads that divides the query's."""

    @staticmethod
    def forward(ctx, query, key, value, options):
        out, lse = attention(query, key, value, return_lse=True, **options)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.options = options
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        query, key, value, out, lse = ctx.saved_tensors
        if dout.stride(-1) != 1:  # That of a sum() has strides of 0.
            dout = dout.contiguous()
        return (*attention_backward(dout, query, key, value, out, lse, **ctx.options), None)


def _joined(tensor, batch, heads):
    """[..., heads, length, dim] as [product of batch, heads, length, dim]; a copy only where dimensions broadcast."""
    return tensor.expand(*batch, heads, *tensor.shape[-2:]).reshape(-1, heads, *tensor.shape[-2:])


def attention_with_gradients(query, key, value, attn_mask, is_causal, scale, enable_gqa):
    """What scaled_dot_product_attention() gives, of tensors that it takes and a mask that needs no gradient; its result has one."""
    shapes = [tensor.shape[:-2] for tensor in (query, key, value)]
    if enable_gqa:
        batch = torch.broadcast_shapes(*(shape[:-1] for shape in shapes))
        heads = [shape[-1] for shape in shapes]
    else:
        whole = torch.broadcast_shapes(*shapes)
        batch, heads = whole[:-1], [whole[-1] if whole else 1] * 3
    operands = [_joined(tensor, batch, n) for tensor, n in zip((query, key, value), heads, strict=True)]
    options = {"causal": is_causal, "causal_alignment": "top_left", "scale": scale}
    if attn_mask is not None:
        if attn_mask.dim() > 3:
            attn_mask = _joined(attn_mask, batch, attn_mask.shape[-3])
        options["mask" if attn_mask.dtype == torch.bool else "bias"] = attn_mask
    out = _Attention.apply(*operands, options)
    has_heads = max(query.dim(), key.dim(), value.dim()) > 2
    return out.reshape(*batch, heads[0], *out.shape[-2:]) if has_heads else out[0, 0]
