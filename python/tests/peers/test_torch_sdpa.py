# SPDX-License-Identifier: Apache-2.0
"""kumiko.torch: PyTorch's scaled_dot_product_attention taken over, or not, and then for a reason."""

import threading
import warnings

import pytest
import torch
import torch.nn.functional as F

import kumiko
import kumiko.torch as taken

OPERATOR = torch.ops.kumiko.scaled_dot_product_attention.default
# Of the largest value 1: rounding of the result, and of PyTorch's.
BOUND = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


@pytest.fixture
def calls(monkeypatch):
    """The calls that reach Kumiko while it is enabled."""
    found = []
    real = taken.scaled_dot_product_attention
    monkeypatch.setattr(taken, "scaled_dot_product_attention", lambda *a: (found.append(a), real(*a))[1])
    with taken.enabled():
        yield found
    assert not taken.is_enabled()


@pytest.fixture
def fallbacks(monkeypatch):
    """Calls a function; returns its result and the reasons for which it was PyTorch's."""
    monkeypatch.setenv("KUMIKO_VERBOSE", "1")
    monkeypatch.setattr(taken, "_said", set())

    def call(function):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            result = function()
        return result, [str(x.message) for x in said if x.category is taken.FallbackWarning]
    return call


def tensors(q=(2, 8, 37, 32), k=(2, 8, 53, 32), v=None, dtype=torch.float32, seed=0):
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=random).to(dtype) for shape in (q, k, v or k)]


def expected(q, k, v, **arguments):
    """In float64, which is never Kumiko's."""
    mask = arguments.pop("attn_mask", None)
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.double()
    return F.scaled_dot_product_attention(q.double(), k.double(), v.double(), attn_mask=mask, **arguments)


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("shapes, arguments", [
    ({}, {}),
    ({}, {"is_causal": True}),
    ({}, {"scale": 0.7}),
    ({"q": (2, 8, 1, 64), "k": (2, 2, 300, 64)}, {"enable_gqa": True}),
    ({"v": (2, 8, 53, 80)}, {}),
    ({"q": (37, 16), "k": (53, 16)}, {}),
    ({"q": (5, 37, 16), "k": (5, 53, 16)}, {}),
    ({"q": (2, 3, 4, 37, 16), "k": (2, 3, 4, 53, 16)}, {"is_causal": True}),
    ({"q": (2, 8, 37, 16), "k": (1, 1, 53, 16)}, {}),
    ({}, {"attn_mask": torch.rand(2, 1, 37, 53, generator=torch.Generator().manual_seed(1)) < 0.7}),
    ({}, {"attn_mask": (torch.arange(53) < 20)[None]}),
    ({}, {"attn_mask": torch.randn(8, 37, 53, generator=torch.Generator().manual_seed(2))}),
])
def test_results_are_pytorchs(calls, dtype, shapes, arguments):
    q, k, v = tensors(**shapes, dtype=dtype)
    arguments = {name: x.to(dtype) if torch.is_tensor(x) and x.is_floating_point() else x for name, x in arguments.items()}
    out = F.scaled_dot_product_attention(q, k, v, **arguments)
    assert len(calls) == 1
    right = expected(q, k, v, **arguments)
    assert out.dtype == dtype and out.shape == right.shape
    assert (out - right).abs().max() <= BOUND[dtype] * right.abs().max()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_inference_in_each_mode(calls, mode):
    q, k, v = tensors()
    if mode is not torch.enable_grad:
        q.requires_grad_()
    with mode():
        out = F.scaled_dot_product_attention(q, k, v)
    assert len(calls) == 1 and not out.requires_grad
    assert torch.equal(out, kumiko.scaled_dot_product_attention(q.detach(), k, v))


def test_strided_views_are_read_in_place(calls):
    q, k, v = tensors((2, 37, 8, 32), (2, 53, 8, 32))
    views = [x.transpose(1, 2) for x in (q, k, v)]
    out = F.scaled_dot_product_attention(*views)
    assert [a.data_ptr() for a in calls[0][:3]] == [x.data_ptr() for x in (q, k, v)]
    assert torch.equal(out, kumiko.scaled_dot_product_attention(*(x.contiguous() for x in views)))


@pytest.mark.parametrize("reason, change, arguments", [
    ("dropout_p is 0.5, expected 0", None, {"dropout_p": 0.5}),
    ("dtype is torch.float64", lambda *x: [t.double() for t in x], {}),
    ("head_dim is 577, expected 1 to 576", lambda *x: [t[..., :1].repeat(1, 1, 1, 577) for t in x], {}),
    ("key's last stride is 53, expected 1", lambda q, k, v: (q, k.transpose(-1, -2).contiguous().transpose(-1, -2), v), {}),
    ("a tensor has the negative bit", lambda q, k, v: (q, k, torch.complex(k, v).conj().imag[..., :1]), {}),
    ("a tensor has the negative bit", None, {"attn_mask": torch.randn(37, 53, dtype=torch.complex64).conj().imag}),
    ("attn_mask is of the shape (1, 1, 37, 53)", lambda *x: [t[0] for t in x], {"attn_mask": torch.rand(1, 1, 37, 53) < 0.7}),
    ("attn_mask is of the shape (3, 53)", lambda q, k, v: (q[:, :, :0], k, v), {"attn_mask": torch.zeros(3, 53)}),
])
def test_what_is_not_ours_is_pytorchs_and_says_why_once(calls, fallbacks, reason, change, arguments):
    q, k, v = (change or (lambda *x: x))(*tensors())

    def call():
        torch.manual_seed(3)
        return F.scaled_dot_product_attention(q, k, v, **arguments)
    out, said = fallbacks(call)
    assert not calls and len(said) == 1 and reason in said[0] and "scaled_dot_product_attention is PyTorch's" in said[0]
    assert fallbacks(call)[1] == []
    taken.disable()
    assert torch.equal(out, call())
    taken.enable()


def test_nothing_is_said_without_kumiko_verbose(calls, fallbacks, monkeypatch):
    monkeypatch.delenv("KUMIKO_VERBOSE")
    assert fallbacks(lambda: F.scaled_dot_product_attention(*(x.double() for x in tensors())))[1] == []


def test_pytorchs_errors_stay(calls):
    q, k, v = tensors()
    with pytest.raises(RuntimeError, match="attn_mask.*is_causal"):
        F.scaled_dot_product_attention(q, k, v, attn_mask=torch.ones(37, 53, dtype=torch.bool), is_causal=True)
    with pytest.raises(RuntimeError):
        F.scaled_dot_product_attention(q, k.to(torch.bfloat16), v)
    with pytest.raises(IndexError):
        F.scaled_dot_product_attention(q, k, v, attn_mask=torch.ones(53, dtype=torch.bool))
    assert not calls


def test_nested_tensors_are_pytorchs(calls):
    q, k, v = (torch.nested.nested_tensor([x[0, :, :n].transpose(0, 1) for n in (5, 9)], layout=torch.jagged).transpose(1, 2)
               for x in tensors())
    out = F.scaled_dot_product_attention(q, k, v)
    assert out.is_nested and not calls


def test_modules_use_it(calls):
    layer = torch.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first=True).eval()
    x = torch.randn(2, 11, 64, generator=torch.Generator().manual_seed(4))
    torch.backends.mha.set_fastpath_enabled(False)  # it has no call of scaled_dot_product_attention
    try:
        with torch.no_grad():
            out = layer(x)
            count = len(calls)
            taken.disable()
            right = layer(x)
            taken.enable()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert count == 1
    torch.testing.assert_close(out, right, rtol=0, atol=1e-5)


def test_autocast(calls):
    q, k, v = tensors()
    with torch.autocast("cpu", torch.bfloat16):
        out = F.scaled_dot_product_attention(q, k, v)
    assert out.dtype == torch.bfloat16 and len(calls) == 1


def test_disable_and_the_context_manager_restore():
    q, k, v = tensors()
    pytorchs, ours = F.scaled_dot_product_attention(q, k, v), kumiko.scaled_dot_product_attention(q, k, v)
    tag = torch.compiler.config.cache_key_tag
    assert not torch.equal(pytorchs, ours)  # their last bits differ: below they tell whose a result is

    def result():
        return "ours" if torch.equal(F.scaled_dot_product_attention(q, k, v), ours) else "PyTorch's"
    taken.disable()
    with taken.enabled():
        taken.enable()
        with taken.enabled():
            assert result() == "ours"
        assert result() == "ours"
        found = []
        thread = threading.Thread(target=lambda: found.append(result()))
        thread.start()
        thread.join()
        assert found == ["ours"]
        assert torch.compiler.config.cache_key_tag != tag
    assert result() == "PyTorch's" and torch.compiler.config.cache_key_tag == tag
    with pytest.raises(KeyError), taken.enabled():
        raise KeyError
    assert result() == "PyTorch's"


class Attention(torch.nn.Module):
    def forward(self, q, k, v, mask=None):
        return F.scaled_dot_product_attention(q * 2, k, v, attn_mask=mask) + 1


def graph_of(q, k, v, **options):
    """The compiled function's graph after autograd and decompositions, and its result."""
    from torch._functorch.aot_autograd import aot_module_simplified
    graphs = []
    torch._dynamo.reset()
    compiled = torch.compile(Attention(), fullgraph=True, backend=lambda module, inputs: aot_module_simplified(
        module, inputs, fw_compiler=lambda graph, _: (graphs.append(graph), graph)[1]), **options)
    return compiled, graphs


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_code_has_the_operator(calls, dynamic):
    q, k, v = tensors()
    compiled, graphs = graph_of(q, k, v, dynamic=dynamic)
    with torch.no_grad():
        for length in (53, 20):
            inputs = q, k[:, :, :length].clone(), v[:, :, :length].clone()
            assert torch.equal(compiled(*inputs), Attention()(*inputs))
    assert len(graphs) == (1 if dynamic else 2)
    assert all(OPERATOR in {node.target for node in graph.graph.nodes} for graph in graphs)
    assert len(calls) == 4


@pytest.mark.parametrize("number", [0, 3], ids=["query", "attn_mask"])
def test_compiled_code_that_needs_gradients_has_pytorchs(calls, number):
    inputs = [*tensors(), torch.zeros(37, 53)]
    inputs[number].requires_grad_()
    compiled, graphs = graph_of(*inputs[:3])
    compiled(*inputs).sum().backward()
    assert OPERATOR not in {node.target for node in graphs[0].graph.nodes} and not calls and inputs[number].grad is not None


def test_inductor(calls):
    q, k, v = tensors()
    torch._dynamo.reset()
    with torch.no_grad():
        out = torch.compile(Attention(), fullgraph=True)(q, k, v)
        assert len(calls) == 1
        assert torch.equal(out, Attention()(q, k, v))


def test_exported_programs_keep_pytorchs_operator_and_run_on_either(calls):
    q, k, v = tensors()
    mask = (torch.arange(53) < 20)[None]
    length = torch.export.Dim("length", min=2, max=4096)
    program = torch.export.export(Attention(), (q, k, v, mask), strict=False, dynamic_shapes=(
        None, {2: length}, {2: length}, {1: length}))
    assert torch.ops.aten.scaled_dot_product_attention.default in {node.target for node in program.graph.nodes}
    shorter = (q, k[:, :, :30], v[:, :, :30], mask[:, :30])
    calls.clear()
    out = program.module()(*shorter)
    assert len(calls) == 1 and torch.equal(out, Attention()(*shorter))
    taken.disable()
    torch.testing.assert_close(program.module()(*shorter), out, rtol=0, atol=1e-5)
    taken.enable()


@pytest.mark.parametrize("arguments", [{}, {"is_causal": True}, {"enable_gqa": True}])
def test_the_operator_is_well_formed(arguments):
    q, k, v = tensors(k=(2, 2 if arguments.get("enable_gqa") else 8, 53, 32), v=(2, 2 if arguments.get("enable_gqa") else 8, 53, 48))
    torch.library.opcheck(OPERATOR, (q, k, v), arguments)


def test_the_operator_refuses_gradients():
    q, k, v = tensors()
    with pytest.raises(RuntimeError, match="kumiko::scaled_dot_product_attention has no gradient"):
        torch.ops.kumiko.scaled_dot_product_attention(q.requires_grad_(), k, v)


def test_unequal_heads_of_key_and_value_are_pytorchs(calls, fallbacks):
    q, k, v = tensors(k=(2, 2, 53, 32), v=(2, 4, 53, 32))
    out, said = fallbacks(lambda: F.scaled_dot_product_attention(q, k, v, enable_gqa=True))
    assert not calls and len(said) == 1 and "enable_gqa with 2 heads of key and 4 of value" in said[0]
    right = expected(q, k.repeat_interleave(4, 1), v.repeat_interleave(2, 1))
    torch.testing.assert_close(out, right.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("way", ["dual", "jvp", "jacfwd", "grad of another"])
def test_tangents_and_transforms_are_pytorchs(calls, fallbacks, way):
    """Its kernel that has forward-mode differentiation, as there is none of Kumiko's."""
    (q, k, v), (tangent, _, _) = tensors(), tensors(seed=1)

    def call(query):
        return F.scaled_dot_product_attention(query, k, v)

    def run():
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            if way == "jvp":
                return torch.func.jvp(call, (q,), (tangent,))[1]
            if way == "jacfwd":
                return torch.func.jacfwd(lambda x: call(q + x * tangent))(torch.zeros(()))
            if way == "grad of another":
                return torch.func.grad(lambda x: (x * call(q)).sum())(tangent)
            with torch.autograd.forward_ad.dual_level():
                return torch.autograd.forward_ad.unpack_dual(call(torch.autograd.forward_ad.make_dual(q, tangent))).tangent
    found, said = fallbacks(run)
    assert not calls and len(said) == 1
    taken.disable()
    assert found.abs().max() > 0.1 and torch.equal(found, run())
    taken.enable()
