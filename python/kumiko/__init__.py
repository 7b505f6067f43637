# SPDX-License-Identifier: Apache-2.0
"""Exact attention on CPUs, called from many threads at once.

Tensors are whatever speaks the buffer protocol or DLPack: numpy arrays (also of ml_dtypes.bfloat16), PyTorch's and
JAX's on the CPU, memoryviews. They are read and written in place. A new result is of the kind that the query is.

Errors: ValueError (an argument outside its domain), TypeError (an argument of the wrong type), NotImplementedError
(well formed, but this build or machine cannot do it), RuntimeError (a KUMIKO_* variable that does not parse),
MemoryError; of streams, queue.Full and concurrent.futures.CancelledError. The sentence names the argument, its value and
what was expected; it counts dimensions in the order batch, heads, length, head_dim.
"""

from ._append import kv_append, pack_key_pages, unpack_key_pages
from ._attention import Tensor, attention, scaled_dot_product_attention
from ._backward import BackwardPlan, attention_backward
from ._core import Context, DomainMemory, default_context, set_default_context
from ._core import version as __version__
from ._plan import Plan, Prediction
from ._products import fused_gemm, merge_states, quantize_rows, softmax_pv
from ._server import attention_with_kvcache, varlen_attention
from ._stream import Stream, Ticket

__all__ = [
    "BackwardPlan",
    "Context",
    "DomainMemory",
    "Plan",
    "Prediction",
    "Stream",
    "Tensor",
    "Ticket",
    "__version__",
    "attention",
    "attention_backward",
    "attention_with_kvcache",
    "default_context",
    "fused_gemm",
    "kv_append",
    "merge_states",
    "pack_key_pages",
    "quantize_rows",
    "scaled_dot_product_attention",
    "set_default_context",
    "softmax_pv",
    "unpack_key_pages",
    "varlen_attention",
]
