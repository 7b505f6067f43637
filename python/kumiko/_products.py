# SPDX-License-Identifier: Apache-2.0
"""The library's other operations on the same kernels, each in one call."""

from collections.abc import Sequence
from typing import Any

from . import _core
from ._attention import Tensor, Window
from ._core import Context


def softmax_pv(
    scores: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    causal_alignment: str = "bottom_right",
    window: Window = None,
    scale: float = 1.0,
    seqused_k: Tensor | Sequence[int] | None = None,
    pipeline: str = "automatic",
    precision: str = "automatic",
    return_lse: bool = False,
    lse: Tensor | None = None,
    layout: str = "bhsd",
    out: Tensor | None = None,
    context: Context | None = None,
) -> Any:
    """softmax(scale * scores) v, with scores that were computed elsewhere.

    scores   [batch, q_heads, q_len, kv_len] of float32 or int32 (rounded to float32, exact up to 2**24), whatever the
             layout; one of -inf hides its key
    v        [batch, kv_heads, kv_len, v_head_dim] of float32, float16 or bfloat16, q_heads a multiple of kv_heads
    scale    factor on the scores, such as that of a quantised product
    pipeline any but "decode"
    layout   "bhsd" as above, or "bshd": v and out are [batch, length, heads, dim]
    out      of v's type or float32

    The other arguments, the result and the errors are those of attention(); a new result is of v's kind.
    """
    return _core.softmax_pv(
        scores, v, causal, causal_alignment, window, scale, seqused_k, pipeline, return_lse, lse, layout, out, context,
        precision,
    )  # fmt: skip


def fused_gemm(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    causal_alignment: str = "bottom_right",
    window: Window = None,
    scale: float = 1.0,
    seqused_k: Tensor | Sequence[int] | None = None,
    precision: str = "automatic",
    layout: str = "bhsd",
    out: Tensor | None = None,
    context: Context | None = None,
) -> Any:
    """(scale * q k^T) v: two products without a softmax (linear attention), the scores never stored.

    A key that a query does not see adds nothing. The arguments, the result and the errors are those of attention(); the
    default of scale is 1.
    """
    return _core.fused_gemm(
        q, k, v, causal, causal_alignment, window, scale, seqused_k, layout, out, context, precision
    )


def merge_states(
    states: Sequence[tuple[Tensor, Tensor]],
    *,
    layout: str = "bhsd",
    out: Tensor | None = None,
    lse: Tensor | None = None,
    context: Context | None = None,
) -> tuple[Any, Any]:
    """Attention over disjoint sets of keys, merged into attention over their union, in the order given.

    lse = log(sum_n exp(lse_n)), out = sum_n exp(lse_n - lse) * out_n (Liu et al., Ring Attention, 2023, section 3).

    states  a list of (out, lse) as attention(..., return_lse=True) returns them: out [batch, q_heads, q_len,
            v_head_dim], all of one shape and type; lse float32 [batch, q_heads, q_len]. One whose lse is -inf saw no key
            and is skipped
    layout  "bhsd" as above, or "bshd": each out is [batch, length, heads, dim]
    out     to write to, of the states' type or float32; it and lse may be those of a state

    Returns (out, lse), new ones of the first state's kind. Errors: see the package.
    """
    return _core.merge_states(states, layout, out, lse, context)


def quantize_rows(
    x: Tensor,
    *,
    layout: str = "bhsd",
    out: Tensor | None = None,
    scale: Tensor | None = None,
    context: Context | None = None,
) -> tuple[Any, Any]:
    """Rows of queries or keys to int8 with a scale each, as attention() takes them.

    scale = a row's largest magnitude / 127, out = x / scale rounded to nearest even; each row's depend on it alone.

    x       [batch, heads, length, head_dim] of float32, float16 or bfloat16
    layout  "bhsd" as above, or "bshd": x and out are [batch, length, heads, head_dim]
    out     int8, to write to
    scale   float32 [batch, heads, length] whatever the layout, to write to

    Returns (out, scale), new ones of x's kind. Errors: see the package.
    """
    return _core.quantize_rows(x, layout, out, scale, context)
