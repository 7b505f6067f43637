# SPDX-License-Identifier: Apache-2.0
"""kumiko.torch in training: gradients are those of attention_backward, against PyTorch's in float64."""

import pytest
import torch
import torch.nn.functional as F

import kumiko
import kumiko.torch as taken

# Of the largest gradient: rounding of the inputs' type in the result, and in PyTorch's.
BOUND = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


@pytest.fixture
def calls(monkeypatch):
    """The calls whose backward pass is Kumiko's."""
    from kumiko import _torch_autograd

    found = []
    real = _torch_autograd.attention_backward
    monkeypatch.setattr(_torch_autograd, "attention_backward", lambda *a, **k: (found.append(a), real(*a, **k))[1])
    with taken.enabled():
        yield found


def leaves(q=(2, 8, 37, 32), k=(2, 8, 53, 32), v=None, dtype=torch.float32):
    random = torch.Generator().manual_seed(7)
    return [torch.randn(shape, generator=random).to(dtype).requires_grad_() for shape in (q, k, v or k)]


def gradients_in_double(tensors, weights, **arguments):
    """Of sum(weights * attention) in float64, which is never Kumiko's, by the tensors and a mask that requires one."""
    tensors = [x.detach().double().requires_grad_() for x in tensors]
    mask = arguments.pop("attn_mask", None)
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.detach().double().requires_grad_(mask.requires_grad)
    out = F.scaled_dot_product_attention(*tensors, attn_mask=mask, **arguments)
    wanted = [*tensors, mask] if mask is not None and mask.requires_grad else tensors
    return torch.autograd.grad(out, wanted, weights.double().expand(out.shape))


def check(found, right, dtype):
    assert len(found) == len(right)
    for name, x, y in zip(("q", "k", "v", "mask"), found, right, strict=False):
        assert x.dtype == dtype and x.shape == y.shape
        assert (x - y).abs().max() <= BOUND[dtype] * y.abs().max(), f"d{name}"


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("shapes, arguments", [
    ({}, {}),
    ({}, {"is_causal": True}),
    ({}, {"scale": 0.7}),
    ({"q": (2, 8, 53, 64), "k": (2, 2, 53, 64)}, {"enable_gqa": True, "is_causal": True}),
    ({"v": (2, 8, 53, 80)}, {}),
    ({"q": (37, 16), "k": (53, 16)}, {}),
    ({"q": (5, 37, 16), "k": (5, 53, 16)}, {}),
    ({"q": (2, 3, 4, 37, 16), "k": (2, 3, 4, 53, 16)}, {"is_causal": True}),
    ({"q": (2, 8, 37, 16), "k": (1, 1, 53, 16)}, {}),
    ({"q": (1, 1, 37, 16), "k": (2, 8, 53, 16)}, {}),
    ({}, {"attn_mask": torch.rand(2, 1, 37, 53, generator=torch.Generator().manual_seed(1)) < 0.7}),
    ({}, {"attn_mask": (torch.arange(53) < 20)[None]}),
    ({}, {"attn_mask": torch.randn(8, 37, 53, generator=torch.Generator().manual_seed(2))}),
    ({"q": (2, 3, 4, 37, 16), "k": (2, 3, 4, 53, 16)}, {"attn_mask": torch.rand(3, 1, 37, 53, generator=torch.Generator().manual_seed(4)) < 0.7}),
])
def test_gradients_are_pytorchs(calls, dtype, shapes, arguments):
    tensors = leaves(**shapes, dtype=dtype)
    arguments = {name: x.to(dtype) if torch.is_tensor(x) and x.is_floating_point() else x for name, x in arguments.items()}
    out = F.scaled_dot_product_attention(*tensors, **arguments)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    found = torch.autograd.grad(out, tensors, weights)
    assert len(calls) == 1
    with torch.no_grad():
        assert torch.equal(out, F.scaled_dot_product_attention(*tensors, **arguments))
    check(found, gradients_in_double(tensors, weights, **arguments), dtype)


def additive(shape, dtype=torch.float32, hidden=0.0):
    """A mask with a gradient, some of it -inf."""
    random = torch.Generator().manual_seed(6)
    mask = torch.randn(shape, generator=random)
    return mask.masked_fill(torch.rand(shape, generator=random) < hidden, -torch.inf).to(dtype).requires_grad_()


WIDE = {"q": (2, 3, 4, 37, 16), "k": (2, 3, 4, 53, 16)}


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("shapes, mask, arguments", [
    ({}, (2, 8, 37, 53), {}),
    ({}, (1, 8, 37, 53), {}),
    ({}, (2, 1, 37, 53), {"scale": 0.7}),
    ({}, (8, 37, 53), {}),
    ({}, (37, 53), {}),
    ({}, (1, 53), {}),
    ({}, (2, 1, 1, 53), {}),
    ({}, (1, 8, 1, 53), {}),
    ({"v": (2, 8, 53, 80)}, (1, 1, 37, 53), {}),
    ({"q": (2, 8, 37, 64), "k": (2, 2, 53, 64)}, (1, 8, 37, 53), {"enable_gqa": True}),
    ({"q": (2, 8, 37, 64), "k": (2, 2, 53, 64)}, (37, 53), {"enable_gqa": True}),
    ({"q": (37, 16), "k": (53, 16)}, (37, 53), {}),
    ({"q": (5, 37, 16), "k": (5, 53, 16)}, (5, 37, 53), {}),
    ({"q": (5, 37, 16), "k": (5, 53, 16)}, (1, 1, 53), {}),
    ({"q": (2, 8, 37, 16), "k": (1, 1, 53, 16)}, (2, 1, 37, 53), {}),
    (WIDE, (2, 3, 4, 37, 53), {}),
    (WIDE, (2, 3, 1, 1, 53), {}),
    (WIDE, (1, 1, 4, 37, 53), {}),
    (WIDE, (3, 1, 37, 53), {}),
    (WIDE, (2, 1, 4, 37, 53), {}),
])
def test_an_additive_mask_has_its_gradient(calls, dtype, shapes, mask, arguments):
    tensors, mask = leaves(**shapes, dtype=dtype), additive(mask, dtype, hidden=0.2)
    out = F.scaled_dot_product_attention(*tensors, attn_mask=mask, **arguments)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    found = torch.autograd.grad(out, [*tensors, mask], weights)
    assert len(calls) == 1
    check(found, gradients_in_double(tensors, weights, attn_mask=mask, **arguments), dtype)
    assert torch.all(found[3][mask.isinf()] == 0)


@pytest.mark.parametrize("dtype", BOUND)
def test_a_masks_gradient_is_of_its_own_type(calls, dtype):
    tensors, mask = leaves(dtype=dtype), additive((8, 1, 53))
    out = F.scaled_dot_product_attention(*tensors, attn_mask=mask)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    found = torch.autograd.grad(out, [*tensors, mask], weights)
    assert len(calls) == 1 and found[3].dtype == torch.float32
    right = gradients_in_double(tensors, weights, attn_mask=mask)
    check(found[:3], right[:3], dtype)
    assert (found[3] - right[3]).abs().max() <= BOUND[dtype] * right[3].abs().max()


def test_what_is_the_same_for_all_keys_has_a_gradient_of_zero(calls):
    tensors, mask = leaves(), additive((37, 1))
    out = F.scaled_dot_product_attention(*tensors, attn_mask=mask)
    dmask, dq = torch.autograd.grad(out, [mask, tensors[0]], torch.ones_like(out))
    assert len(calls) == 1 and dmask.shape == (37, 1) and dmask.abs().max() <= 1e-5 * dq.abs().max()


@pytest.mark.parametrize("batch, own, flat", [((2,), (2, 1, 1, 53), (2, 1, 1, 53)), ((2,), (37, 53), (37, 53)), ((2,), (1, 8, 1, 53), (8, 1, 53)),
                                              ((2, 3), (1, 1, 8, 1, 53), (8, 1, 53)), ((2, 3), (2, 3, 1, 1, 53), (6, 1, 1, 53))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_mask_broadcasts_to_is_summed_by_the_library(calls, dtype, batch, own, flat):
    """In float64 and in a fixed order, and rounded once, where PyTorch would sum what has been rounded."""
    tensors, mask = leaves((*batch, 8, 37, 32), (*batch, 8, 53, 32), dtype=dtype), additive(own, dtype)
    out = F.scaled_dot_product_attention(*tensors, attn_mask=mask)
    (found,) = torch.autograd.grad(out, mask, torch.ones_like(out))
    q, k, v = (x.detach().flatten(0, -4) for x in tensors)
    bias, dbias = mask.detach().reshape(flat), torch.empty(flat)
    options = {"bias": bias, "context": kumiko.Context(num_threads=1)}
    result, lse = kumiko.attention(q, k, v, return_lse=True, **options)
    kumiko.attention_backward(torch.ones_like(result), q, k, v, result, lse, dbias=dbias, **options)
    assert len(calls) == 1 and torch.equal(found, dbias.reshape(own).to(dtype))


@pytest.mark.parametrize("shape", [(3, 8, 37, 53), (1, 2, 8, 37, 53), (2, 3, 37, 53), (2, 8, 37, 54)])
def test_a_mask_that_does_not_fit_is_an_error(calls, shape):
    for requires_grad in (False, True):
        with pytest.raises((ValueError, RuntimeError)):
            F.scaled_dot_product_attention(*leaves(), attn_mask=torch.zeros(shape, requires_grad=requires_grad))


def test_a_mask_alone_needs_a_gradient(calls):
    tensors, mask = leaves(), additive((8, 37, 53))
    out = F.scaled_dot_product_attention(*(x.detach() for x in tensors), attn_mask=mask)
    (found,) = torch.autograd.grad(out.square().sum(), mask)
    every = torch.autograd.grad(F.scaled_dot_product_attention(*tensors, attn_mask=mask).square().sum(), [*tensors, mask])
    assert len(calls) == 2 and torch.equal(found, every[3])
    with torch.no_grad():
        assert torch.equal(out, F.scaled_dot_product_attention(*tensors, attn_mask=mask)) and len(calls) == 2


def test_a_mask_without_a_gradient_costs_none(calls, monkeypatch):
    from kumiko import _torch_autograd

    wanted = []
    real = _torch_autograd.attention_backward
    monkeypatch.setattr(_torch_autograd, "attention_backward", lambda *a, **k: (wanted.append(k["return_dbias"]), real(*a, **k))[1])
    tensors, mask = leaves(), additive((37, 53))
    F.scaled_dot_product_attention(*tensors, attn_mask=mask.detach()).sum().backward()
    F.scaled_dot_product_attention(*tensors, attn_mask=mask.detach() < 1).sum().backward()
    assert wanted == [False, False]


def test_rows_that_a_mask_hides_have_gradients_of_zero(calls):
    tensors, mask = leaves(), additive((37, 53))
    with torch.no_grad():
        mask[5] = -torch.inf
    out = F.scaled_dot_product_attention(*tensors, attn_mask=mask)
    dq, _, _, dmask = torch.autograd.grad(out, [*tensors, mask], torch.ones_like(out))
    assert len(calls) == 1 and torch.all(out[:, :, 5] == 0) and torch.all(dq[:, :, 5] == 0) and torch.all(dmask[5] == 0)


def test_a_learned_position_bias_learns_as_with_pytorch(calls):
    """T5's: a table of buckets and heads that every layer's call adds to its scores."""
    def learn():
        q, k, v = (x.detach() for x in leaves())
        table = torch.zeros(16, 8, requires_grad=True)
        distances = (torch.arange(37)[:, None] - torch.arange(53)).abs().clamp(max=15)
        goal = torch.randn(2, 8, 37, 32, generator=torch.Generator().manual_seed(8))
        losses = []
        for _ in range(5):
            loss = (F.scaled_dot_product_attention(q, k, v, attn_mask=table[distances].permute(2, 0, 1)) - goal).square().mean()
            (slope,) = torch.autograd.grad(loss, table)
            with torch.no_grad():
                table -= 200 * slope
            losses.append(loss.item())
        return losses, table.detach()
    losses, table = learn()
    assert len(calls) == 5
    taken.disable()
    right, same = learn()
    taken.enable()
    assert right[-1] < right[0] - 1e-3 and all(abs(a - b) <= 1e-6 for a, b in zip(losses, right, strict=True))
    assert (table - same).abs().max() <= 1e-4 * same.abs().max()


@pytest.mark.parametrize("weights", [torch.ones(()), torch.randn(2, 8, 32, 37, generator=torch.Generator().manual_seed(5)).mT],
                         ids=["expanded", "transposed"])
def test_gradients_of_the_result_have_any_strides(calls, weights):
    tensors = leaves()
    out = F.scaled_dot_product_attention(*tensors)
    found = torch.autograd.grad(out, tensors, weights.expand(out.shape))
    assert len(calls) == 1
    check(found, gradients_in_double(tensors, weights), torch.float32)


def test_a_part_of_the_tensors_needs_gradients(calls):
    q, k, v = leaves()
    frozen = k.detach()
    F.scaled_dot_product_attention(q, frozen, v).square().sum().backward()
    every = leaves()
    F.scaled_dot_product_attention(*every).square().sum().backward()
    assert len(calls) == 2 and frozen.grad is None
    assert torch.equal(q.grad, every[0].grad) and torch.equal(v.grad, every[2].grad)


def test_float64_is_pytorchs_and_passes_gradcheck(calls):
    tensors = [x.detach().double().requires_grad_() for x in leaves(q=(1, 2, 3, 4), k=(1, 2, 5, 4))]
    assert torch.autograd.gradcheck(F.scaled_dot_product_attention, tensors) and not calls


def test_a_second_derivative_is_an_error(calls):
    q, k, v = leaves()
    (dq,) = torch.autograd.grad(F.scaled_dot_product_attention(q, k, v).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dq.sum().backward()


def test_tensors_changed_before_the_backward_pass_are_an_error(calls):
    q, k, v = leaves()
    out = F.scaled_dot_product_attention(q, k, v)
    with torch.no_grad():
        k.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@pytest.mark.parametrize("batch, shape, is_copied", [((2,), (37, 53), False), ((2, 3), (2, 3, 1, 37, 53), False), ((2, 3), (3, 1, 37, 53), True)])
def test_a_mask_changed_before_the_backward_pass_is_an_error(calls, batch, shape, is_copied):
    """Where it is read in place; of a copy the gradients are those of the forward pass."""
    tensors = leaves((*batch, 8, 37, 32), (*batch, 8, 53, 32))
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.7
    right = gradients_in_double(tensors, torch.ones(()), attn_mask=mask)
    out = F.scaled_dot_product_attention(*tensors, attn_mask=mask)
    mask.logical_not_()
    if is_copied:
        check(torch.autograd.grad(out, tensors, torch.ones_like(out)), right, torch.float32)
    else:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.sum().backward()


@pytest.mark.parametrize("lengths", [(0, 53), (37, 0), (0, 0)])
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize("masked", ["no mask", "bool", "bias"])
def test_no_queries_or_no_keys(calls, lengths, batch, masked):
    tensors = leaves((*batch, 8, lengths[0], 32), (*batch, 8, lengths[1], 32))
    mask = {"no mask": None, "bool": torch.ones(*batch, 1, *lengths, dtype=torch.bool), "bias": torch.zeros(*batch, 1, *lengths)}[masked]
    out = F.scaled_dot_product_attention(*tensors, attn_mask=mask)
    out.sum().backward()
    assert len(calls) == 1 and out.shape == (*batch, 8, lengths[0], 32) and not out.any()
    assert all(x.grad.shape == x.shape and not x.grad.any() for x in tensors)


@pytest.mark.parametrize("transform", ["grad", "vmap"])
def test_transforms_of_torch_func_are_pytorchs(calls, transform):
    q, k, v = leaves()

    def loss(query):
        return F.scaled_dot_product_attention(query, k, v).square().sum()
    if transform == "grad":
        found = torch.func.grad(loss)(q.detach())
    else:
        found = torch.func.vmap(torch.func.grad(loss))(q.detach()[None])[0]
    assert not calls
    loss(q).backward()
    torch.testing.assert_close(found, q.grad, rtol=0, atol=1e-5 * float(q.grad.abs().max()))


def train(steps, attention):
    """Losses of a small Llama with weights of its own, on one batch."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(11)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=64, attn_implementation=attention))
    tokens = torch.randint(0, 96, (3, 33))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(steps):
        loss = model(input_ids=tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_a_llama_trains_as_with_eager_attention(calls):
    ours = train(20, "sdpa")
    assert len(calls) == 20 * 2
    eager = train(20, "eager")
    assert ours[-1] < ours[0] - 0.1 and all(abs(a - b) <= 1e-4 for a, b in zip(ours, eager, strict=True))


def test_gradients_have_one_threads_bits(calls):
    tensors = leaves(q=(1, 8, 300, 64), k=(1, 8, 300, 64))
    found = torch.autograd.grad(F.scaled_dot_product_attention(*tensors, is_causal=True).sum(), tensors)
    q, k, v = (x.detach() for x in tensors)
    one = kumiko.Context(num_threads=1)
    options = {"causal": True, "causal_alignment": "top_left", "context": one}
    out, lse = kumiko.attention(q, k, v, return_lse=True, **options)
    right = kumiko.attention_backward(torch.ones_like(out), q, k, v, out, lse, **options)
    assert all(torch.equal(a, b) for a, b in zip(found, right, strict=True))
