# SPDX-License-Identifier: Apache-2.0
"""Attention for PyTorch's autograd: the forward call keeps its result and log-sum-exp, the backward is ours."""

from math import prod

import torch
from torch.autograd.function import once_differentiable

from ._attention import attention
from ._backward import attention_backward


class _Attention(torch.autograd.Function):

    @staticmethod
    def forward(ctx, query, key, value, bias, mask, options):
        out, lse = attention(query, key, value, bias=bias, mask=mask, return_lse=True, **options)
        ctx.save_for_backward(query, key, value, bias, mask, out, lse)
        ctx.options = options
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        query, key, value, bias, mask, out, lse = ctx.saved_tensors
        if dout.stride(-1) != 1:  # That of a sum() has strides of 0.
            dout = dout.contiguous()
        wants_dbias = ctx.needs_input_grad[3]
        gradients = attention_backward(
            dout, query, key, value, out, lse, bias=bias, mask=mask, return_dbias=wants_dbias, **ctx.options
        )
        return (*gradients, None, None) if wants_dbias else (*gradients, None, None, None)


def recorded_attention(query, key, value, bias, mask=None, **options):
    """attention() as autograd records it, with gradients of query, key, value and bias, which may be None.

    [batch, heads, length, dim] each; `options` are those that attention() and attention_backward() share, none of them a tensor:
    only of tensors that it saves does autograd see that they change before the backward pass.
    """
    return _Attention.apply(query, key, value, bias, mask, options)


def _joined(tensor, batch, heads):
    """[..., heads, length, dim] as [product of batch, heads, length, dim]; a copy only where dimensions broadcast."""
    # Not -1, which PyTorch refuses to find where a length is 0.
    return tensor.expand(*batch, heads, *tensor.shape[-2:]).reshape(prod(batch), heads, *tensor.shape[-2:])


def _joined_mask(mask, batch):
    """The same of a mask, which keeps what broadcasts as it is: sums of its gradient are then the library's.

    Where it has some of several dimensions of the batch it is copied, and PyTorch sums: in float32, whatever its type.
    """
    if mask.dim() <= 3:
        return mask
    outer, inner = mask.shape[:-3], mask.shape[-3:]
    whole = mask.expand(*batch, *inner)
    if outer.numel() == 1:
        return mask.reshape(inner)
    if outer != batch and mask.requires_grad:
        whole = mask.float().expand(whole.shape)
    return whole.reshape(prod(batch), *inner)


def attention_with_gradients(query, key, value, attn_mask, is_causal, scale, enable_gqa):
    """What scaled_dot_product_attention() gives, of tensors that it takes; its result has the gradients that these require."""
    shapes = [tensor.shape[:-2] for tensor in (query, key, value)]
    if enable_gqa:
        batch = torch.broadcast_shapes(*(shape[:-1] for shape in shapes))
        heads = [shape[-1] for shape in shapes]
    else:
        whole = torch.broadcast_shapes(*shapes)
        batch, heads = whole[:-1], [whole[-1] if whole else 1] * 3
    operands = [_joined(tensor, batch, n) for tensor, n in zip((query, key, value), heads, strict=True)]
    options = {"causal": is_causal, "causal_alignment": "top_left", "scale": scale}
    bias = mask = None
    if attn_mask is not None:
        attn_mask = _joined_mask(attn_mask, batch)
        if attn_mask.dtype == torch.bool:
            mask = attn_mask
        else:
            bias = attn_mask
    out = recorded_attention(*operands, bias, mask, **options)
    has_heads = max(query.dim(), key.dim(), value.dim()) > 2
    return out.reshape(*batch, heads[0], *out.shape[-2:]) if has_heads else out[0, 0]
