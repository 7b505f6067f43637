# SPDX-License-Identifier: Apache-2.0
"""Masks of transformers in memory of O(kv_len).

A mask that is causal, a window, a padding, or several of these says for each key how far from it a query may stand: a
complex tensor `reach` of shape [batch, 1, q_len, kv_len], the same for all queries (a stride of 0), where one at position p
sees key j if

    p - j < reach[b, 0, 0, j].real  and  j - p < reach[b, 0, 0, j].imag,

so that 0 hides the key (padding), an imaginary part of 1 is causal, and _FAR is no limit. The last query stands at the last
key. The type, which no other mask has, tells it from them, and it stays right when a model cuts off keys or first queries.
"""

from typing import Any, NamedTuple

import torch
from transformers.masking_utils import (
    and_masks,
    bidirectional_mask_function,
    causal_mask_function,
    prepare_padding_mask,
    sdpa_mask,
    sliding_window_bidirectional_overlay,
    sliding_window_overlay,
)
from transformers.utils.import_utils import is_tracing

_FAR = 2**31 - 1
# transformers says what a mask is by functions of indices. All that one definition makes have one code object.
_AND = and_masks().__code__
_SLIDING = sliding_window_overlay(1).__code__
_SLIDING_BOTH_WAYS = sliding_window_bidirectional_overlay(1).__code__


class Pattern(NamedTuple):
    """What a mask says, in the terms of kumiko.attention()."""

    left: int  # window, -1: no limit
    right: int
    begins: list[int]  # the keys of each sequence, as a range
    ends: list[int]
    seen: torch.Tensor | None  # bool [batch, 1, 1, kv_len], if one has keys that are no range


def _captured(function: Any) -> Any:
    """The one variable that a function of transformers captured."""
    return function.__closure__[0].cell_contents


def _limits(function: Any) -> tuple[int, int] | None:
    """(left, right), -1 for no limit, of a mask function; None if it is another kind."""
    if function is causal_mask_function:
        return -1, 0
    if function is bidirectional_mask_function:
        return -1, -1
    code = getattr(function, "__code__", None)
    if code is _SLIDING:
        return _captured(function) - 1, -1
    if code is _SLIDING_BOTH_WAYS:
        return (_captured(function),) * 2
    if code is not _AND:
        return None
    limits = [_limits(part) for part in _captured(function)]
    if None in limits:
        return None
    return tuple(min((x for x in side if x >= 0), default=-1) for side in zip(*limits, strict=True))


def kumiko_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | torch.Tensor = 0,
    kv_offset: int = 0,
    mask_function: Any = causal_mask_function,
    attention_mask: torch.Tensor | None = None,
    allow_is_causal_skip: bool = True,
    allow_is_bidirectional_skip: bool = False,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    **others: Any,
) -> torch.Tensor | None:
    """The mask that transformers asks for, as kumiko_attention() takes it; the arguments are those of its sdpa_mask.

    Returns None where nothing but the module's causality hides a key; a reach (see above), of O(kv_length); or, for
    other patterns (packed or chunked sequences, images), for one query and while a model is traced, a boolean
    [batch, 1, q_length, kv_length].
    """
    limits = None if use_vmap else _limits(mask_function)
    traced = is_tracing(attention_mask) if attention_mask is not None else torch.compiler.is_compiling()
    right = None if limits is None else limits[1]
    may_skip = allow_is_causal_skip if right == 0 else allow_is_bidirectional_skip
    if traced or not may_skip or limits is None:
        return _dense(batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask,
                      allow_is_causal_skip, allow_is_bidirectional_skip, use_vmap, device, others)  # fmt: skip
    # The key of the last query. Later ones are the unused rest of a static cache.
    used = int(q_offset) + q_length - kv_offset if right == 0 else kv_length
    if right > 0 and (kv_length != q_length or kv_offset != 0):
        return _dense(batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask, False, False,
                      use_vmap, device, others)  # fmt: skip
    padding = prepare_padding_mask(attention_mask, kv_length, kv_offset)
    seen = None if padding is None else padding[:, kv_offset : kv_offset + used].to(torch.bool)
    if seen is not None and bool(seen.all()):
        seen = None
    left = limits[0] if limits[0] < used - 1 else -1
    right = right if right < used - 1 or right == 0 else -1
    if seen is None and used == kv_length and left < 0 and right <= 0:
        return None
    ones = torch.ones((1, used), dtype=torch.float64, device=device) if seen is None else seen.to(torch.float64)
    reach = torch.complex(*(ones * (side + 1 if side >= 0 else _FAR) for side in (left, right)))
    return reach[:, None, None].expand(batch_size, -1, q_length, -1)


def _dense(batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask, causal_skip,
           bidirectional_skip, use_vmap, device, others):  # fmt: skip
    # sdpa_mask also leaves out a mask that is causal from the top left, which means another thing here.
    return sdpa_mask(
        batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask,
        allow_is_causal_skip=causal_skip and (q_length == 1 or q_length == kv_length),
        allow_is_bidirectional_skip=bidirectional_skip, use_vmap=use_vmap, device=device, **others,
    )  # fmt: skip


def is_reach(mask: torch.Tensor) -> bool:
    """Whether the mask is a reach."""
    return mask.is_complex()


def dense_mask(reach: torch.Tensor, q_len: int) -> torch.Tensor:
    """The same as bool [batch, 1, q_len, kv_len]."""
    kv_len = reach.shape[-1]
    key = torch.arange(kv_len, device=reach.device)
    ahead = (torch.arange(q_len, device=reach.device) + kv_len - q_len)[:, None] - key
    first = reach[:, :, :1]
    return (ahead < first.real) & (-ahead < first.imag)


def is_padding(mask: torch.Tensor) -> bool:
    """Whether it hides the same keys from every query and head of a sequence."""
    return mask.dtype == torch.bool and mask.shape[1] == 1 and (mask.shape[2] == 1 or mask.stride(2) == 0)


def pattern_of(mask: torch.Tensor) -> Pattern:
    """What a reach or a padding says; kept on the tensor, because every layer of a model asks.

    A padding may be the caller's, who may change it: PyTorch counts that, but for tensors of torch.inference_mode().
    """
    if not is_reach(mask) and mask.is_inference():
        return _find_pattern(mask)
    version = 0 if is_reach(mask) else mask._version
    kept = getattr(mask, "_kumiko_pattern", None)
    if kept is None or kept[0] != version:
        kept = mask._kumiko_pattern = (version, _find_pattern(mask))
    return kept[1]


def _find_pattern(mask: torch.Tensor) -> Pattern:
    kv_len = mask.shape[-1]
    seen = mask[:, 0, 0]
    left = right = -1
    if is_reach(mask):
        left, right = (int(x) - 1 if x < _FAR else -1 for x in (seen.real.amax(), seen.imag.amax()))
        seen = seen.real > 0
    count = seen.sum(-1)
    begin = torch.where(count > 0, seen.to(torch.int8).argmax(-1), 0)
    end = torch.where(count > 0, kv_len - seen.flip(-1).to(torch.int8).argmax(-1), 0)
    if bool((end - begin == count).all()):
        return Pattern(left, right, begin.tolist(), end.tolist(), None)
    return Pattern(left, right, [], [], seen[:, None, None])
