# SPDX-License-Identifier: Apache-2.0
"""Gradients of attention, in one call, or planned once and run many times."""

from collections.abc import Sequence
from typing import Any

from . import _core
from ._attention import Tensor, Window
from ._core import Context


def attention_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    *,
    causal: bool = False,
    causal_alignment: str = "bottom_right",
    window: Window = None,
    scale: float | None = None,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    sinks: Tensor | None = None,
    lse_with_sink: bool = True,
    lse_base: str = "natural",
    causal_sequences: Tensor | Sequence[bool] | None = None,
    prefix_lens: Tensor | Sequence[int] | None = None,
    seqused_k: Tensor | Sequence[int] | None = None,
    cu_seqlens_q: Tensor | Sequence[int] | None = None,
    cu_seqlens_k: Tensor | Sequence[int] | None = None,
    dlse: Tensor | None = None,
    delta: Tensor | None = None,
    dq: Tensor | None = None,
    dk: Tensor | None = None,
    dv: Tensor | None = None,
    dsinks: Tensor | None = None,
    dbias: Tensor | None = None,
    dalibi_slopes: Tensor | None = None,
    return_dbias: bool = False,
    return_dalibi_slopes: bool = False,
    layout: str = "bhsd",
    context: Context | None = None,
    precision: str = "automatic",
) -> Any:
    """The gradients of sum(dout * out) by q, k and v, where out, lse = attention(q, k, v, ..., return_lse=True).

    dout        the gradient of out: shaped as out, of float32, float16 or bfloat16
    out, lse    what the forward call returned
    dlse        float32 [batch, q_heads, q_len]: the gradient of lse, where the loss depends on it as well
    dq, dk, dv  to write to: shaped as q, k and v, apart from every input; None: new tensors of their types
    delta       float32 [batch, q_heads, q_len]: the sums of dout * out over v_head_dim, where the caller has them; out is then not read
    return_dbias, return_dalibi_slopes  whether the gradients of bias and alibi_slopes are wanted, which take as long as two more of
                the five products
    dbias       to write that of bias to: shaped as it, of float32, float16 or bfloat16; None: a new tensor of its type
    dsinks, dalibi_slopes  to write those of sinks and alibi_slopes to: shaped as these, float32, contiguous; None: new tensors
    layout      "bhsd", or "bshd": of every tensor but lse and dlse
    precision   what the products of dq, dk and dv multiply: "standard", float32; "half", pairs of bfloat16, where q, k, v and dout
                are bfloat16 and the context's isa is avx512_bf16; "automatic", half there and standard anywhere else, or
                KUMIKO_PRECISION

    All other arguments are those of the forward call, with its meaning of them. Sums are of float32, and gradients are
    rounded once. Their bits do not depend on threads or on the rest of the batch. Queries and keys that see nothing have
    gradients of 0; rows behind the last packed sequence are not written.
    Returns (dq, dk, dv), and after these, where there are any: dsinks, float32 [q_heads]; dbias, if it is given or wanted, summed
    over what bias was broadcast to; dalibi_slopes, if it is given or wanted. Errors: see the package.
    """
    # The order of tensors is that of python/src/backward.h, that of settings and terms that of python/src/call.h.
    return _core.attention_backward(
        q, k, v, (dout, out, lse, dlse, delta, dq, dk, dv, dsinks, dbias, dalibi_slopes),
        (causal, causal_alignment, window, scale, softcap, lse_with_sink, lse_base, 0, causal_sequences, prefix_lens, seqused_k,
         cu_seqlens_q, cu_seqlens_k, None, 0, 0, "automatic", None, "rows", precision),
        (alibi_slopes, bias, mask, None, None, None, sinks, None, None, None, None),
        return_dbias, return_dalibi_slopes, layout, context,
    )  # fmt: skip


class BackwardPlan:
    """A call of attention_backward() prepared once and run many times.

    The arguments are those of attention_backward(). Of the tensors a plan keeps shapes, strides and types, not the memory:
    each run has its own, which must agree. Without dq, dk, dv or dbias a run's are as attention_backward() makes them. The
    values of lengths are kept; to change them make another plan.

    Every method may be called from any number of threads at once.
    """

    __slots__ = ("_plan",)

    def __init__(
        self,
        dout: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        *,
        causal: bool = False,
        causal_alignment: str = "bottom_right",
        window: Window = None,
        scale: float | None = None,
        softcap: float = 0.0,
        alibi_slopes: Tensor | None = None,
        bias: Tensor | None = None,
        mask: Tensor | None = None,
        sinks: Tensor | None = None,
        lse_with_sink: bool = True,
        lse_base: str = "natural",
        causal_sequences: Tensor | Sequence[bool] | None = None,
        prefix_lens: Tensor | Sequence[int] | None = None,
        seqused_k: Tensor | Sequence[int] | None = None,
        cu_seqlens_q: Tensor | Sequence[int] | None = None,
        cu_seqlens_k: Tensor | Sequence[int] | None = None,
        dq: Tensor | None = None,
        dk: Tensor | None = None,
        dv: Tensor | None = None,
        dbias: Tensor | None = None,
        return_dbias: bool = False,
        return_dalibi_slopes: bool = False,
        layout: str = "bhsd",
        context: Context | None = None,
        precision: str = "automatic",
    ) -> None:
        self._plan = _core.BackwardPlan(
            q, k, v, (dout, out, None, None, None, dq, dk, dv, None, dbias, None),
            (causal, causal_alignment, window, scale, softcap, lse_with_sink, lse_base, 0, causal_sequences, prefix_lens,
             seqused_k, cu_seqlens_q, cu_seqlens_k, None, 0, 0, "automatic", None, "rows", precision),
            (alibi_slopes, bias, mask, None, None, None, sinks, None, None, None, None),
            return_dbias, return_dalibi_slopes, layout, context,
        )  # fmt: skip

    def run(
        self,
        dout: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        *,
        alibi_slopes: Tensor | None = None,
        bias: Tensor | None = None,
        mask: Tensor | None = None,
        sinks: Tensor | None = None,
        dlse: Tensor | None = None,
        delta: Tensor | None = None,
        dq: Tensor | None = None,
        dk: Tensor | None = None,
        dv: Tensor | None = None,
        dsinks: Tensor | None = None,
        dbias: Tensor | None = None,
        dalibi_slopes: Tensor | None = None,
    ) -> Any:
        """Runs on these tensors and returns what attention_backward() returns of the planned problem.

        lse, dlse and delta may have any strides, and dlse and delta be there or not. With every gradient given, the library
        allocates nothing, unless more runs overlap in time than ever before. Raises ValueError (not the planned problem),
        NotImplementedError (in a forked child), MemoryError.
        """
        return self._plan.run(
            q, k, v, (dout, out, lse, dlse, delta, dq, dk, dv, dsinks, dbias, dalibi_slopes),
            (alibi_slopes, bias, mask, None, None, None, sinks, None, None, None, None),
        )  # fmt: skip

    def explain(self) -> str:
        """The problem, which heads one thread computes alone, bytes of workspace: one fact per line."""
        return self._plan.explain()

    @property
    def workspace_bytes(self) -> int:
        """Bytes of workspace that one run uses: scratch of all cores, and sums that threads share."""
        return self._plan.workspace_bytes()
