# SPDX-License-Identifier: Apache-2.0
"""attn_implementation="kumiko" in training: gradients of models of random weights are those of eager attention."""

import copy
import warnings

import pytest
import torch
import transformers as hf

import kumiko.torch
import kumiko.transformers as taken
from test_torch_gradients import train
from test_transformers import DECODERS, ENCODERS, T5, made, positions, prompt


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """The calls whose backward pass is Kumiko's. A call that goes to PyTorch is an error."""
    from kumiko import _torch_autograd

    found = []
    real = _torch_autograd.attention_backward
    monkeypatch.setattr(_torch_autograd, "attention_backward", lambda *a, **k: (found.append(a), real(*a, **k))[1])
    monkeypatch.setenv("KUMIKO_VERBOSE", "1")
    monkeypatch.setattr(kumiko.torch, "_said", set())
    with warnings.catch_warnings():
        warnings.simplefilter("error", kumiko.torch.FallbackWarning)
        yield found


def without_dropout(kind, config):
    """GPT-2, BERT and T5 drop attention weights in training; that is PyTorch's."""
    with torch.no_grad():
        model = made(kind, config)  # in eval(), where nothing is dropped
    return model.requires_grad_(True)


def gradients(model, function, name):
    model.set_attn_implementation(name)
    model.zero_grad()
    logits = function(model)
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3))
    (logits * weights.to(logits.dtype)).sum().backward()
    return {key: weight.grad for key, weight in model.named_parameters() if weight.grad is not None}


def check(model, function, calls):
    """As near to float64, where all is PyTorch's, as eager attention in float32 is, but for the order of some sums.

    (Eager attention in float64 gives NaN where a query sees nothing: its mask is -inf in the float32 of its softmax.)
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", kumiko.torch.FallbackWarning)
        right = gradients(copy.deepcopy(model).double(), function, "kumiko")
    naive = gradients(model, function, "eager")
    assert not calls
    found = gradients(model, function, "kumiko")
    assert calls and found.keys() == naive.keys() == right.keys() and len(right) > 10
    largest = max(float(x.abs().max()) for x in right.values())
    for name, gradient in right.items():
        ours, eagers = (float((x[name] - gradient).abs().max()) for x in (found, naive))
        assert eagers <= 1e-3 * largest and ours <= 3 * eagers + 1e-7 * largest, (name, ours, eagers, largest)
    calls.clear()


@pytest.mark.parametrize("name", DECODERS)
def test_gradients_of_decoders(name, calls):
    tokens, mask = prompt()
    model = without_dropout(*DECODERS[name])
    check(model, lambda m: m(tokens).logits, calls)
    for padding in (mask, mask.flip(-1), mask | mask.flip(-1)):  # on the left, on the right, and in the middle
        check(model, lambda m: m(tokens, attention_mask=padding, position_ids=positions(padding)).logits[padding.bool()], calls)


@pytest.mark.parametrize("name", ENCODERS)
def test_gradients_of_encoders(name, calls):
    tokens, mask = prompt()
    model = without_dropout(*ENCODERS[name])
    check(model, lambda m: m(tokens).logits, calls)
    for padding in (mask, mask.flip(-1), mask | mask.flip(-1)):
        check(model, lambda m: m(tokens, attention_mask=padding).logits[padding.bool()], calls)


def test_gradients_of_a_learned_bias(calls):
    """T5's bias of positions: in the encoder both ways, in the decoder causal."""
    tokens, mask = prompt()
    model = without_dropout(hf.T5ForConditionalGeneration, lambda: hf.T5Config(**T5))
    for padding in (mask, mask.flip(-1)):
        check(model, lambda m: m(input_ids=tokens, attention_mask=padding, decoder_input_ids=tokens[:, :20]).logits, calls)
    assert model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.grad.abs().max() > 0


def test_a_prompt_behind_a_cache_has_gradients(calls):
    """More keys than queries: the causal diagonal ends at the last key."""
    q = torch.randn(2, 4, 9, 16, generator=torch.Generator().manual_seed(1), requires_grad=True)
    k, v = (torch.randn(2, 2, 21, 16, generator=torch.Generator().manual_seed(i), requires_grad=True) for i in (2, 3))
    weights = torch.randn(2, 9, 4, 16, generator=torch.Generator().manual_seed(4))
    mask = torch.ones(9, 21, dtype=torch.bool).tril(12)
    right = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True).transpose(1, 2)
    module = torch.nn.Module()
    module.is_causal = True
    found, _ = taken.kumiko_attention(module, q, k, v, None)
    assert found.is_contiguous()
    torch.testing.assert_close(found, right, rtol=0, atol=1e-5)
    for ours, theirs in zip(*(torch.autograd.grad(out, (q, k, v), weights) for out in (found, right)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert len(calls) == 1


def test_gradients_in_a_padded_batch_are_those_alone(calls):
    """Bit for bit: of the two sequences, and of the second one without its padding."""
    q, k, v = (torch.randn(2, 4, 33, 16, generator=torch.Generator().manual_seed(i)) for i in range(3))
    weights = torch.randn(2, 33, 4, 16, generator=torch.Generator().manual_seed(4))
    known = torch.arange(33) >= torch.tensor([0, 12])[:, None]
    mask = taken.kumiko_mask(2, 33, 33, attention_mask=known, allow_is_causal_skip=True)
    module = torch.nn.Module()
    module.is_causal = True

    def run(tensors, mask, weights):
        tensors = [x.clone().requires_grad_() for x in tensors]
        return torch.autograd.grad(taken.kumiko_attention(module, *tensors, mask)[0], tensors, weights)

    together = run((q, k, v), mask, weights)
    alone = run([x[1:, :, 12:] for x in (q, k, v)], None, weights[1:, 12:])
    for a, b in zip(together, alone, strict=True):
        assert torch.equal(a[1:, :, 12:], b) and not a[1:, :, :12].any()
    assert len(calls) == 3


def test_a_llama_trains_as_with_eager_attention(calls):
    eager, ours = train(20, "eager"), train(20, "kumiko")
    assert len(calls) == 20 * 2
    assert ours[-1] < ours[0] - 0.1 and all(abs(a - b) <= 1e-4 for a, b in zip(ours, eager, strict=True))
