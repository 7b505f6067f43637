# SPDX-License-Identifier: Apache-2.0
"""What is timed: shapes, their data and the check of an answer against fp64."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

DTYPES = {"f32": 4, "bf16": 2, "f16": 2}
# Largest error beside the exact result of the rounded inputs. Results are at most about 4: bf16 rounds them by 2^-7, and weights as well.
BOUND = {"f32": 2e-5, "bf16": 4e-2, "f16": 5e-3}
CACHES = 64 << 20  # Keys and values of a decode step come from memory: calls go round sets of at least so many bytes.
MOST_SETS = 16
MOST_DIM = 576  # Of Kumiko's heads.
ROWS = 64  # Queries of each head that are checked, the first and the last among them.


@dataclass(frozen=True)
class Case:
    """One shape: [batch, heads, length, head_dim]; causal ends at the last key."""

    batch: int = 1
    q_heads: int = 8
    kv_heads: int = 8
    q_len: int = 4096
    kv_len: int = 4096
    head_dim: int = 128
    causal: bool = False
    dtype: str = "f32"

    @property
    def kind(self) -> str:
        return "decode" if self.q_len == 1 else "prefill"

    @property
    def group(self) -> int:
        return self.q_heads // self.kv_heads

    @property
    def name(self) -> str:
        heads = f"{self.q_heads}" if self.group == 1 else f"{self.q_heads}/{self.kv_heads}"
        lengths = f"{self.kv_len} keys" if self.q_len == 1 else f"{self.q_len} x {self.kv_len}"
        return f"{self.dtype} {'causal ' if self.causal and self.q_len > 1 else ''}{self.kind}, B{self.batch} H{heads} D{self.head_dim}, {lengths}"

    @property
    def scale(self) -> float:
        return self.head_dim**-0.5

    @property
    def least_bytes(self) -> int:
        """Of the tensors, and of the float64 keys, values and scores of the check."""
        q, kv = (self.batch * heads * length * self.head_dim for heads, length in ((self.q_heads, self.q_len), (self.kv_heads, self.kv_len)))
        scores = self.batch * self.q_heads * min(ROWS, self.q_len) * self.kv_len
        return DTYPES[self.dtype] * 2 * (q + kv) + 8 * (2 * kv * self.group + scores)


def built_in() -> list[Case]:
    """Prefill and decode of usual models, in f32 and in bf16."""
    shapes = [
        Case(),
        Case(causal=True),
        Case(q_heads=32, kv_heads=8, q_len=2048, kv_len=2048, causal=True),
        Case(batch=8, q_heads=12, kv_heads=12, q_len=128, kv_len=128, head_dim=32),
        Case(batch=8, q_heads=12, kv_heads=12, q_len=197, kv_len=197, head_dim=64),
        Case(q_len=1, q_heads=32, kv_heads=8, kv_len=16384),
        Case(q_len=1, q_heads=32, kv_heads=8, kv_len=4096),
        Case(q_len=1, q_heads=32, kv_heads=32, kv_len=4096),
        Case(q_len=1, batch=8, q_heads=32, kv_heads=8, kv_len=2048),
    ]
    return [replace(shape, dtype=dtype) for dtype in ("f32", "bf16") for shape in shapes]


class Data:
    """Seeded normal deviates, rounded to the case's type: q, and (k, v) for each set."""

    def __init__(self, case: Case):
        self.case = case
        random = np.random.default_rng(0)
        kv = (case.batch, case.kv_heads, case.kv_len, case.head_dim)
        bytes_ = 2 * int(np.prod(kv)) * DTYPES[case.dtype]
        sets = min(-(-CACHES // bytes_), MOST_SETS) if case.kind == "decode" else 1

        def tensor(shape: tuple[int, ...]) -> Any:
            return random.standard_normal(shape, dtype=np.float32).astype(numpy_type(case.dtype))
        self.q = tensor((case.batch, case.q_heads, case.q_len, case.head_dim))
        self.sets = [(tensor(kv), tensor(kv)) for _ in range(sets)]
        self.rows = np.unique(np.linspace(0, case.q_len - 1, ROWS).astype(int))
        self.right = self._exact()

    def _exact(self) -> np.ndarray:
        """Of the first set, in float64: [batch, q_heads, rows, head_dim]."""
        case, rows = self.case, self.rows
        k, v = (x.astype(np.float64).repeat(case.group, axis=1) for x in self.sets[0])
        scores = self.q[:, :, rows].astype(np.float64) @ k.swapaxes(-1, -2) * case.scale
        if case.causal:
            scores[..., np.arange(case.kv_len) > rows[:, None] + case.kv_len - case.q_len] = -np.inf
        largest = scores.max(-1, keepdims=True)
        weights = np.exp(scores - np.where(np.isneginf(largest), 0.0, largest))
        return weights / np.maximum(weights.sum(-1, keepdims=True), 1e-300) @ v  # 0 where a query sees no key

    def wrong(self, answer: np.ndarray) -> str | None:
        """None, or a sentence on what is wrong with [batch, q_heads, q_len, head_dim], computed of the first set."""
        if answer.shape != self.q.shape:
            return f"the answer's shape is {answer.shape}, expected {self.q.shape}"
        answer = answer.astype(np.float64)
        if not np.isfinite(answer).all():
            return "the answer has values that are not finite"
        error = np.abs(answer[:, :, self.rows] - self.right).max()
        bound = BOUND[self.case.dtype]
        return None if error <= bound else f"the answer errs by {error:.2g}, expected at most {bound:g}"


def numpy_type(dtype: str) -> Any:
    if dtype == "bf16":
        import ml_dtypes
        return ml_dtypes.bfloat16
    return {"f32": np.float32, "f16": np.float16}[dtype]
