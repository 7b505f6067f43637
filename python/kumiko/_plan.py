# SPDX-License-Identifier: Apache-2.0
"""A call prepared once and run many times."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from . import _core
from ._attention import Tensor, Window
from ._core import Context


class Prediction(NamedTuple):
    """The time of one run, in seconds."""

    seconds: float  # start_seconds, and the time of the busiest core
    attainable_seconds: float  # the same work in equal parts: no order of tasks is faster


class Plan:
    """An attention call prepared once and run many times.

    The arguments are those of attention(). Of the tensors a plan keeps shapes, strides and types, not the memory: each
    run has its own, which must agree. Without out, a run's output is as attention() makes it. The values of seqused_k
    are kept, and changed by update(). With kv_indptr max_pages should be what the longest sequence will need: it is fixed.

    Every method may be called from any number of threads at once; update() waits for runs that are in progress, but those
    submitted to a Stream must have ended.
    """

    __slots__ = ("_plan",)

    def __init__(
        self,
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
        layout: str = "bhsd",
        out: Tensor | None = None,
        context: Context | None = None,
    ) -> None:
        self._plan = _core.Plan(
            q, k, v,
            (causal, causal_alignment, window, scale, softcap, lse_with_sink, lse_base, window_sink_tokens, causal_sequences,
             prefix_lens, seqused_k, cu_seqlens_q, cu_seqlens_k, max_pages, bsr_rows, bsr_keys, pipeline, kv_domains,
             key_layout, precision),
            (alibi_slopes, bias, mask, tree_mask, bsr_indptr, bsr_indices, sinks, block_table, kv_indptr, q_scale, k_scale),
            layout, out, context,
        )  # fmt: skip

    def run(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        alibi_slopes: Tensor | None = None,
        bias: Tensor | None = None,
        mask: Tensor | None = None,
        tree_mask: Tensor | None = None,
        bsr_indptr: Tensor | None = None,
        bsr_indices: Tensor | None = None,
        sinks: Tensor | None = None,
        block_table: Tensor | None = None,
        kv_indptr: Tensor | Sequence[int] | None = None,
        q_scale: Tensor | None = None,
        k_scale: Tensor | None = None,
        return_lse: bool = False,
        lse: Tensor | None = None,
        return_row_max: bool = False,
        row_max: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Any:
        """Runs on these tensors and returns out, or a tuple of it and of lse and row_max where they are asked for.

        With out given, the library allocates nothing, unless more runs overlap in time than ever before. Raises
        ValueError (not the planned problem), NotImplementedError (in a forked child), MemoryError.
        """
        terms = (alibi_slopes, bias, mask, tree_mask, bsr_indptr, bsr_indices, sinks, block_table, kv_indptr, q_scale, k_scale)
        return self._plan.run(q, k, v, terms, (return_lse, lse, return_row_max, row_max), out)

    def update(
        self,
        seqused_k: Tensor | Sequence[int],
        block_table: Tensor | None = None,
        kv_indptr: Tensor | Sequence[int] | None = None,
    ) -> None:
        """Sets the used lengths, [batch], of later runs; the plan must have been made with seqused_k.

        Keys in pages that several sequences have at their start are read once for all of them, as the plan's block_table
        had it; a run whose block_table has not is refused. With block_table, of the planned shape and strides, they are
        found anew: give it when a sequence gives way to another. A plan with kv_indptr takes one with each block_table.

        Results are those of a new plan. The plan is cut again only where a row block begins or ends in another block of
        512 keys. On an error nothing changes.
        """
        self._plan.update(seqused_k, block_table, kv_indptr)

    def explain(self) -> str:
        """Pipeline, blocks, tasks per domain, predicted imbalance, bytes of workspace: one fact per line."""
        return self._plan.explain()

    def predict(
        self, *, core_flops: float, core_bandwidth: float, domain_bandwidth: float, start_seconds: float = 0.0
    ) -> Prediction:
        """The time of a run on a machine of these rates with this context's threads and domains.

        core_flops        FLOP/s of one core in products and exponentials
        core_bandwidth    bytes/s that one core reads while the others are idle
        domain_bandwidth  bytes/s that all cores of a domain read together
        start_seconds     seconds to wake the threads and to wait for the last one, once a run
        """
        return Prediction(*self._plan.predict(core_flops, core_bandwidth, domain_bandwidth, start_seconds))

    @property
    def workspace_bytes(self) -> int:
        """Bytes of workspace that one run uses: scratch of all cores, and split results."""
        return self._plan.workspace_bytes()
