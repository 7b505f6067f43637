# SPDX-License-Identifier: Apache-2.0
"""JAX's arrays in and out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kumiko

jax.config.update("jax_platforms", "cpu")


@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 2e-6), (jnp.float16, 2e-3), (jnp.bfloat16, 2e-2)])
def test_arrays_in_and_out(dtype, tolerance):
    q, k, v = (jax.random.normal(jax.random.PRNGKey(n), (2, 9, 4, 32), dtype) for n in range(3))
    mask = jnp.tril(jnp.ones((9, 9), bool))
    out, lse = kumiko.attention(q, k, v, mask=mask, layout="bshd", return_lse=True)
    assert isinstance(out, jax.Array) and out.dtype == dtype and isinstance(lse, jax.Array) and lse.dtype == jnp.float32
    with jax.enable_x64(True):
        expected = jax.nn.dot_product_attention(*(jnp.asarray(np.asarray(x), jnp.float64) for x in (q, k, v)), mask=mask[None, None])
    np.testing.assert_allclose(np.asarray(out, np.float64), np.asarray(expected), rtol=0, atol=tolerance)
    turned = (x.swapaxes(1, 2) for x in (q, k, v))
    assert jnp.array_equal(kumiko.scaled_dot_product_attention(*turned, is_causal=True), out.swapaxes(1, 2))
