# SPDX-License-Identifier: Apache-2.0
"""PyTorch's scaled_dot_product_attention on Kumiko, for CPU tensors, in inference and training.

    import kumiko.torch

    kumiko.torch.enable()         # from here on, for every thread
    with kumiko.torch.enabled():  # or for a block

Where a gradient is needed the result has one, by attention_backward, that of an additive mask included; a second derivative
is an error. A call that Kumiko does not compute goes to PyTorch's own code, as before: one with dropout, float64,
forward-mode differentiation, torch.func, compiled code that needs gradients, ... With the environment variable
KUMIKO_VERBOSE=1 the reason is a FallbackWarning, once for each reason. Other devices, nested and sparse tensors never come
here.

The operator aten::scaled_dot_product_attention gets a kernel for the dispatch key CPU. torch.compile finds the operator
kumiko::scaled_dot_product_attention in its place, torch.export keeps PyTorch's.
"""

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch._C import _len_torch_dispatch_stack
from torch._subclasses import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.autograd import forward_ad

from ._attention import scaled_dot_product_attention
from ._core import version
from ._torch_autograd import attention_with_gradients

__all__ = ["FallbackWarning", "disable", "enable", "enabled", "is_enabled"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_MAX_DIM = 576
_ATEN = torch.ops.aten.scaled_dot_product_attention.default
_SCHEMA = (
    "(Tensor query, Tensor key, Tensor value, Tensor? attn_mask=None, float dropout_p=0.0, bool is_causal=False, *, "
    "float? scale=None, bool enable_gqa=False) -> Tensor"
)


class FallbackWarning(UserWarning):
    """A call went to PyTorch's own code. Raised under KUMIKO_VERBOSE=1, once for each reason."""


_said: set[str] = set()


def say_fallback(what: str, reason: str) -> None:
    """Warns, under KUMIKO_VERBOSE=1, of the first call that goes elsewhere for this reason."""
    if torch.compiler.is_compiling() or os.environ.get("KUMIKO_VERBOSE") != "1" or (text := f"{what}: {reason}") in _said:
        return
    _said.add(text)
    warnings.warn(text, FallbackWarning, stacklevel=3)


def needs_gradient(*tensors: torch.Tensor | None) -> bool:
    """Whether autograd must record what is computed of these tensors."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def why_not(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *others: torch.Tensor | None) -> str | None:
    """Why Kumiko cannot take these tensors, whatever is computed of them; None if it can. `others` are masks and biases."""
    if torch._C._are_functorch_transforms_active():
        return "a transform of torch.func is active"
    if forward_ad._current_level >= 0:  # A tensor with a tangent does not say so: its requires_grad is False.
        return "forward-mode differentiation is active"
    if query.dtype not in _DTYPES:
        return f"dtype is {query.dtype}, expected float32, bfloat16 or float16"
    if not query.dtype == key.dtype == value.dtype:
        return f"query, key and value are of the types {query.dtype}, {key.dtype} and {value.dtype}, expected one type"
    tensors = [tensor for tensor in (query, key, value, *others) if tensor is not None]
    for tensor in tensors:
        if tensor.device.type != "cpu":
            return f"a tensor is on {tensor.device}, expected the CPU"
        # The imaginary part of a conjugate: its memory holds other numbers. Compiled code resolves it before an operator.
        if not torch.compiler.is_compiling() and tensor.is_neg():
            return "a tensor has the negative bit, expected resolve_neg() of it"
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if not 1 <= tensor.shape[-1] <= _MAX_DIM:
            return f"{name}'s head_dim is {tensor.shape[-1]}, expected 1 to {_MAX_DIM}"
        if tensor.stride(-1) != 1 and tensor.shape[-1] != 1:
            return f"{name}'s last stride is {tensor.stride(-1)}, expected 1"
    return None


def is_traced(*tensors: torch.Tensor | None) -> bool:
    """Whether the call is being recorded, or watched by a TorchDispatchMode, so that it must go through an operator."""
    if torch.compiler.is_compiling() or _len_torch_dispatch_stack() > 0:
        return True
    return any(isinstance(tensor, (FakeTensor, FunctionalTensor)) for tensor in tensors)


def why_no_gradient(*tensors: torch.Tensor | None) -> str | None:
    """Why autograd cannot record a call on these tensors; None if it can."""
    if is_traced(*tensors):
        return "a tensor requires a gradient, in compiled code or under a dispatch mode"
    return None


def _foreign_type(*tensors: torch.Tensor | None) -> str | None:
    """The name of a subclass with an own idea of operators, such as DTensor."""
    for tensor in tensors:
        if tensor is None or isinstance(tensor, (FakeTensor, FunctionalTensor)):
            continue
        if type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
            return type(tensor).__name__
    return None


def _why_not_sdpa(query, key, value, attn_mask, dropout_p, is_causal, enable_gqa):
    if dropout_p != 0:
        return f"dropout_p is {dropout_p}, expected 0"
    if kind := _foreign_type(query, key, value, attn_mask):
        return f"a tensor is a {kind}"
    if query.dim() < 2 or key.dim() < 2 or value.dim() < 2:
        return "a tensor has fewer than 2 dimensions"
    if reason := why_not(query, key, value, attn_mask):
        return reason
    if needs_gradient(query, key, value, attn_mask) and (reason := why_no_gradient(query, key, value, attn_mask)):
        return reason
    if attn_mask is not None:
        if is_causal:
            return "is_causal with an attn_mask"
        if attn_mask.dim() < 2:
            return "attn_mask has fewer than 2 dimensions"
        if attn_mask.dtype not in (torch.bool, torch.float32, query.dtype):
            return f"attn_mask is of the type {attn_mask.dtype}, expected bool, float32 or the query's"
        if not _broadcasts(attn_mask.shape, query.shape, key.shape, value.shape, enable_gqa):
            return f"attn_mask is of the shape {tuple(attn_mask.shape)}, expected one that broadcasts to the scores'"
    if enable_gqa:
        if min(query.dim(), key.dim(), value.dim()) < 3:
            return "enable_gqa without heads"
        if key.shape[-3] != value.shape[-3]:
            return f"enable_gqa with {key.shape[-3]} heads of key and {value.shape[-3]} of value, expected the same"
    return None


def _broadcasts(mask, query, key, value, enable_gqa):
    """Whether a mask's shape broadcasts to that of the scores: PyTorch computes some that do not, a batch of masks for instance."""
    if len(mask) > max(len(query), len(key), len(value)):
        return False
    if mask[-1] not in (1, key[-2]) or mask[-2] not in (1, query[-2]):
        return False
    for i in range(3, len(mask) + 1):
        sizes = [shape[-i] for shape in ((query,) if i == 3 and enable_gqa else (query, key, value)) if i <= len(shape)]
        if mask[-i] != 1 and mask[-i] not in sizes:
            return False
    return True


def _sdpa_fake(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None, enable_gqa=False):
    dims = max(query.dim(), key.dim(), value.dim())
    if enable_gqa:
        batch = (*torch.broadcast_shapes(query.shape[:-3], key.shape[:-3], value.shape[:-3]), query.shape[-3])
    else:
        batch = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    assert len(batch) == dims - 2
    return query.new_empty((*batch, query.shape[-2], value.shape[-1]))


def _sdpa_cpu(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None, enable_gqa=False):
    return scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)


def define(name: str, schema: str, cpu: Callable, fake: Callable) -> torch._ops.OpOverload:
    """The operator kumiko::name. It has no gradient, and an error where one is needed."""
    def autograd(*arguments, **keywords):
        if torch.is_grad_enabled():
            tensors = (x for x in (*arguments, *keywords.values()) if isinstance(x, torch.Tensor))
            if any(x.requires_grad for x in tensors):
                raise RuntimeError(f"kumiko::{name} has no gradient; expected tensors that require none, or torch.no_grad()")
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*arguments, **keywords)

    _operators.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    operator = getattr(torch.ops.kumiko, name).default
    _operators.impl(name, cpu, "CPU")
    _operators.impl(name, autograd, "AutogradCPU")
    torch.library.register_fake(f"kumiko::{name}", fake, lib=_operators)
    return operator


_operators = torch.library.Library("kumiko", "FRAGMENT")
_OWN = define("scaled_dot_product_attention", _SCHEMA, _sdpa_cpu, _sdpa_fake)


def _sdpa(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None, enable_gqa=False):
    """The kernel of aten::scaled_dot_product_attention while it is taken over."""
    reason = _why_not_sdpa(query, key, value, attn_mask, dropout_p, is_causal, enable_gqa)
    if reason is None:
        if is_traced(query, key, value, attn_mask):
            return _OWN(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        if needs_gradient(query, key, value, attn_mask):
            return attention_with_gradients(query, key, value, attn_mask, is_causal, scale, enable_gqa)
        return scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    say_fallback("scaled_dot_product_attention is PyTorch's", reason)
    return _ATEN.decompose(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)


_lock = threading.Lock()
_taken: torch.library.Library | None = None
_TAG = f"+kumiko-{version}"


def enable() -> None:
    """Takes over torch.nn.functional.scaled_dot_product_attention on CPU tensors, in every thread; twice is as once.

    What torch.compile compiles from here on has Kumiko inside, and keeps it after disable(); what it compiled before
    stays as it is. Its caches on disk are told apart by torch.compiler.config.cache_key_tag.
    """
    global _taken
    with _lock:
        if _taken is not None:
            return
        library = torch.library.Library("aten", "IMPL")
        # Without the second, tensors outside torch.inference_mode() would come to the CPU's kernel past PyTorch's gradients.
        library.impl("scaled_dot_product_attention", _sdpa, "CPU")
        library.impl("scaled_dot_product_attention", _sdpa, "AutogradCPU")
        torch.compiler.config.cache_key_tag += _TAG
        _taken = library


def disable() -> None:
    """Gives torch.nn.functional.scaled_dot_product_attention back to PyTorch; without enable() nothing happens."""
    global _taken
    with _lock:
        if _taken is None:
            return
        _taken._destroy()
        torch.compiler.config.cache_key_tag = torch.compiler.config.cache_key_tag.replace(_TAG, "")
        _taken = None


def is_enabled() -> bool:
    """Whether enable() is in effect."""
    return _taken is not None


@contextmanager
def enabled() -> Iterator[None]:
    """enable() for a block, in every thread; afterwards it is as it was."""
    before = is_enabled()
    enable()
    try:
        yield
    finally:
        if not before:
            disable()
