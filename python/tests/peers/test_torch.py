# SPDX-License-Identifier: Apache-2.0
"""PyTorch's tensors in and out, and its own scaled_dot_product_attention beside ours."""

import pytest
import torch

import kumiko

DTYPES = {torch.float32: 5e-6, torch.float16: 4e-3, torch.bfloat16: 4e-2}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(20)


def make(dtype=torch.float32, query=(2, 8, 9, 32), key=(2, 8, 13, 32)):
    return torch.randn(query, dtype=dtype), torch.randn(key, dtype=dtype), torch.randn(key, dtype=dtype)


def check(out, query, key, value, **options):
    """Against PyTorch's answer in fp64, of which it gives one of the same shape and type."""
    mask = options.get("attn_mask")
    if mask is not None and mask.dtype != torch.bool:
        options = {**options, "attn_mask": mask.double()}
    expected = torch.nn.functional.scaled_dot_product_attention(query.double(), key.double(), value.double(), **options)
    assert type(out) is torch.Tensor and out.dtype == query.dtype and out.shape == expected.shape
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=DTYPES[query.dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"scale": 0.3}, {"scale": 0.0}, {"attn_mask": torch.rand(9, 13) < 0.8},
                                     {"attn_mask": torch.randn(2, 1, 9, 13)}, {"attn_mask": torch.rand(8, 1, 13) < 0.8}])
def test_every_option_means_what_it_means_to_pytorch(dtype, options):
    tensors = make(dtype)
    check(kumiko.scaled_dot_product_attention(*tensors, **options), *tensors, **options)


@pytest.mark.parametrize("query, key, gqa", [
    ((9, 32), (13, 32), False), ((8, 9, 32), (8, 13, 32), False), ((8, 9, 32), (2, 13, 32), True), ((2, 8, 9, 32), (2, 1, 13, 32), False),
    ((2, 8, 9, 32), (1, 8, 13, 32), False), ((2, 1, 9, 32), (2, 8, 13, 32), False), ((2, 8, 9, 32), (8, 13, 32), False),
    ((3, 2, 8, 9, 32), (3, 2, 2, 13, 32), True), ((2, 8, 0, 32), (2, 8, 13, 32), False), ((2, 8, 9, 32), (2, 8, 0, 32), False),
])
def test_shapes(query, key, gqa):
    tensors = make(query=query, key=key)
    check(kumiko.scaled_dot_product_attention(*tensors, enable_gqa=gqa), *tensors, enable_gqa=gqa)


def test_a_row_without_keys_is_zero_as_in_pytorch():
    tensors, mask = make(), torch.ones(9, 13, dtype=torch.bool)
    mask[4] = False
    check(kumiko.scaled_dot_product_attention(*tensors, attn_mask=mask), *tensors, attn_mask=mask)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dlpack_round_trip_without_a_copy(dtype):
    wide = torch.zeros(2, 9, 8, 40, dtype=dtype)
    out = wide.transpose(1, 2)[..., 8:]
    q, k, v = make(dtype)
    assert kumiko.attention(q, k, v, out=out) is out
    assert torch.equal(out, kumiko.attention(q, k, v)) and not wide[..., :8].any()
    assert torch.equal(torch.from_dlpack(out), out)


def test_all_calls_take_tensors_and_give_tensors():
    q, k, v = make()
    out, lse = kumiko.attention(q, k, v, return_lse=True, seqused_k=torch.tensor([13, 2]), mask=torch.ones(9, 13, dtype=torch.bool))
    merged = kumiko.merge_states([(out, lse)])
    scores = (q @ k.mT / 32**0.5).contiguous()
    plan = kumiko.Plan(q, k, v, seqused_k=torch.tensor([1, 1], dtype=torch.int32))
    plan.update(torch.tensor([13, 2]))
    results = [out, lse, *merged, kumiko.softmax_pv(scores, v), kumiko.fused_gemm(q, k, v), plan.run(q, k, v)]
    assert all(type(x) is torch.Tensor for x in results) and lse.dtype == torch.float32
    torch.testing.assert_close(merged[0], out)
    torch.testing.assert_close(results[4], kumiko.attention(q, k, v), rtol=0, atol=5e-6)
    assert torch.equal(results[6], out)


def test_memory_of_a_domain():
    memory = kumiko.Context().allocate(0, 2 * 8 * 13 * 32 * 2)
    keys = torch.frombuffer(memory, dtype=torch.bfloat16).view(2, 8, 13, 32)
    q, k, v = make(torch.bfloat16)
    keys.copy_(k)
    del memory
    assert torch.equal(kumiko.attention(q, keys, v), kumiko.attention(q, k, v))
    shared = torch.from_dlpack(kumiko.Context().allocate(0, 64))
    assert shared.dtype == torch.uint8 and not shared.any()


def test_gradients_are_refused_and_not_lost():
    q, k, v = make()
    q.requires_grad_()
    with pytest.raises(ValueError, match="q is a tensor that requires a gradient"):
        kumiko.attention(q, k, v)
    with torch.no_grad():
        out = kumiko.attention(q, k, v)
    assert torch.equal(out, kumiko.attention(q.detach(), k, v))
    with torch.inference_mode():
        assert torch.equal(kumiko.attention(q * 1, k, v), out)
    assert torch.equal(kumiko.attention(torch.nn.Parameter(q.detach(), requires_grad=False), k, v), out)


@pytest.mark.parametrize("call", [kumiko.attention, kumiko.scaled_dot_product_attention])
def test_tangents_are_refused_and_not_lost(call):
    q, k, v = make()
    expected = call(q, k, v)
    with torch.autograd.forward_ad.dual_level(), torch.no_grad():
        dual = torch.autograd.forward_ad.make_dual(k, torch.ones_like(k))
        with pytest.raises(ValueError, match="k.* is a tensor with a tangent of forward-mode differentiation; expected one without"):
            call(q, dual, v)
        assert torch.equal(call(q, torch.autograd.forward_ad.unpack_dual(dual).primal, v), expected)
    assert torch.equal(call(q, k, v), expected)


def test_negative_views_are_refused():
    """Their memory holds the numbers of the other sign."""
    q, k, v = make()
    bias = torch.complex(torch.zeros(9, 13), torch.randn(9, 13))
    with pytest.raises(ValueError, match=r"^bias is a tensor with PyTorch's negative bit; expected its resolve_neg\(\)"):
        kumiko.attention(q, k, v, bias=bias.conj().imag)
    out = kumiko.attention(q, k, v, bias=bias.conj().imag.resolve_neg())
    assert torch.equal(out, kumiko.attention(q, k, v, bias=-bias.imag)) and not torch.equal(out, kumiko.attention(q, k, v, bias=bias.imag))
    single = torch.complex(v, v).conj().imag[..., :1]
    with pytest.raises(ValueError, match="^v is a tensor with PyTorch's negative bit"):
        kumiko.attention(q, k, single)


@pytest.mark.parametrize("change, words", [
    (lambda q: q.to("meta"), "q cannot be shared by DLPack: .*meta"), (lambda q: q.to_sparse(), "q cannot be shared by DLPack"),
    (lambda q: q.double(), "q.dtype is float64"),
])
def test_what_is_no_plain_tensor_is_refused(change, words):
    q, k, v = make()
    with pytest.raises(ValueError, match=f"^{words}"):
        kumiko.attention(change(q), k, v)


def test_expanded_outputs_are_refused():
    q, k, v = make()
    with pytest.raises(ValueError, match="lse.stride is 0 in every dimension"):
        kumiko.attention(q, k, v, lse=torch.zeros(1).expand(2, 8, 9))
    with pytest.raises(ValueError, match=r"block_table.stride\[0\] is 0"):
        kumiko.attention(q, k, v, seqused_k=[1, 1], block_table=torch.zeros(1, dtype=torch.int32).expand(2, 1).expand(2, 1))


def test_new_keys_of_a_cache():
    q, k, v = (torch.randn(2, 1, heads, 16, dtype=torch.bfloat16) for heads in (4, 2, 2))
    k_cache, v_cache = (torch.randn(6, 8, 2, 16, dtype=torch.bfloat16) for _ in range(2))
    cos, sin = (torch.rand(24, 8) for _ in range(2))
    table, used = torch.tensor([[4, 0, 5], [1, 3, 2]], dtype=torch.int32), torch.tensor([8, 15], dtype=torch.int32)
    keys, values = k_cache.clone(), v_cache.clone()
    places = {"positions": [8, 15], "cos_sin": (cos, sin)}
    turned = kumiko.kv_append(k, v, keys, values, [0, 3 * 8 + 7], query=q, **places)
    want = kumiko.attention(turned, keys, values, layout="bshd", seqused_k=[9, 16], block_table=table)
    got = kumiko.attention_with_kvcache(q, k_cache, v_cache, k, v, cos, sin, used, block_table=table, rotary_interleaved=False)
    assert torch.equal(got, want) and torch.equal(k_cache, keys) and torch.equal(v_cache, values)


def test_page_lists():
    q, (k, v) = torch.randn(2, 4, 1, 16), torch.randn(2, 6, 2, 8, 16)
    indptr, indices = torch.tensor([0, 3, 5], dtype=torch.int32), torch.tensor([4, 0, 5, 1, 3], dtype=torch.int32)
    table = torch.tensor([[4, 0, 5], [1, 3, -1]], dtype=torch.int32)
    want = kumiko.attention(q, k, v, seqused_k=[20, 9], block_table=table)
    assert torch.equal(kumiko.attention(q, k, v, seqused_k=[20, 9], block_table=indices, kv_indptr=indptr), want)
    none = kumiko.attention(q, k, v, seqused_k=[0, 0], block_table=indices[:0], kv_indptr=indptr * 0)
    assert not none.any()
