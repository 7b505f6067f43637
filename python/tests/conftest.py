# SPDX-License-Identifier: Apache-2.0
"""Seeded tensors."""

import ml_dtypes
import numpy as np
import pytest

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@pytest.fixture(params=DTYPES)
def dtype(request):
    return DTYPES[request.param]


@pytest.fixture
def random():
    return np.random.default_rng(20)


@pytest.fixture
def tensors(random):
    """tensors(q_shape, kv_shape, v_dim, dtype): q, k, v of normal deviates."""
    def make(q_shape=(2, 4, 9, 32), kv_heads=2, kv_len=37, v_dim=None, dtype=np.float32):
        batch, _, _, dim = q_shape
        shapes = (q_shape, (batch, kv_heads, kv_len, dim), (batch, kv_heads, kv_len, v_dim or dim))
        return [random.standard_normal(shape).astype(dtype) for shape in shapes]
    return make
