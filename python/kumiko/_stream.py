# SPDX-License-Identifier: Apache-2.0
"""Asynchronous calls."""

from collections.abc import Callable, Sequence
from types import TracebackType

from . import _core
from ._append import arguments_of
from ._attention import Tensor, Window
from ._core import Context, Ticket
from ._plan import Plan


class Stream:
    """A queue of calls and a thread that makes them in the order of submission, beside other streams and callers.

    context   threads to run on; None: default_context()
    capacity  calls that may be open at once, waiting or running, 1 to 65536

    submit(), attention() and kv_append() return at once with a Ticket. Tensors must not be written by others until its call has ended,
    but a call may read what calls before it write. Tickets keep their tensors alive; a dropped ticket changes nothing, the
    stream keeps the tensors until the call has ended. A result is that of the same call without a stream, bit for bit.

    callback  called once with the ticket by the stream's thread, after the call or its cancellation and before the next
              call starts; others see the ticket done when it has returned. It may submit to the stream, update the plan and
              close the stream. An exception that leaves it goes to sys.unraisablehook

    Raises queue.Full (capacity calls are open; nothing is submitted), ValueError (an argument of the call, as far as it is
    known to be wrong without running; a closed stream), NotImplementedError (no thread can be had, in a forked child),
    concurrent.futures.CancelledError (the stream is being closed), MemoryError. Every method may be called from any number
    of threads at once.
    """

    __slots__ = ("_stream",)

    def __init__(self, context: Context | None = None, *, capacity: int = 64) -> None:
        self._stream = _core.Stream(context, capacity)

    def submit(
        self,
        plan: Plan,
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
        callback: Callable[[Ticket], object] | None = None,
    ) -> Ticket:
        """Submits plan.run() with these arguments; the plan must be of the stream's context.

        plan.update() raises ValueError until the plan's submitted runs have ended.
        """
        terms = (alibi_slopes, bias, mask, tree_mask, bsr_indptr, bsr_indices, sinks, block_table, kv_indptr, q_scale, k_scale)
        return self._stream.run(getattr(plan, "_plan", plan), q, k, v, terms, (return_lse, lse, return_row_max, row_max), out, callback)

    def attention(
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
        return_lse: bool = False,
        lse: Tensor | None = None,
        return_row_max: bool = False,
        row_max: Tensor | None = None,
        layout: str = "bhsd",
        out: Tensor | None = None,
        callback: Callable[[Ticket], object] | None = None,
    ) -> Ticket:
        """Submits kumiko.attention() with these arguments."""
        return self._stream.attention(
            q, k, v,
            (causal, causal_alignment, window, scale, softcap, lse_with_sink, lse_base, window_sink_tokens, causal_sequences,
             prefix_lens, seqused_k, cu_seqlens_q, cu_seqlens_k, max_pages, bsr_rows, bsr_keys, pipeline, kv_domains,
             key_layout, precision),
            (alibi_slopes, bias, mask, tree_mask, bsr_indptr, bsr_indices, sinks, block_table, kv_indptr, q_scale, k_scale),
            (return_lse, lse, return_row_max, row_max), layout, out, callback,
        )  # fmt: skip

    def kv_append(
        self,
        key: Tensor,
        value: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        slot_mapping: Tensor | Sequence[int],
        *,
        query: Tensor | None = None,
        query_out: Tensor | None = None,
        positions: Tensor | Sequence[int] | None = None,
        rotary_dim: int | None = None,
        interleaved: bool = False,
        cos_sin: Tensor | tuple[Tensor, Tensor] | None = None,
        rope_theta: float = 10000.0,
        rope_scale: float = 1.0,
        key_norm: Tensor | None = None,
        query_norm: Tensor | None = None,
        norm_eps: float = 1e-6,
        layout: str = "bshd",
        key_layout: str = "rows",
        page_domains: Tensor | Sequence[int] | None = None,
        callback: Callable[[Ticket], object] | None = None,
    ) -> Ticket:
        """Submits kumiko.kv_append() with these arguments."""
        return self._stream.kv_append(
            *arguments_of(key, value, key_cache, value_cache, slot_mapping, query, query_out, positions, rotary_dim, interleaved,
                          cos_sin, rope_theta, rope_scale, key_norm, query_norm, norm_eps, layout, key_layout, page_domains),
            callback,
        )  # fmt: skip

    def close(self) -> None:
        """Cancels the calls that have not started and waits for the one that runs and for all callbacks.

        In a callback of the stream it does not wait. A stream that is dropped, or left in a with statement, is closed; so
        are all that are open when the interpreter ends.
        """
        self._stream.close()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
