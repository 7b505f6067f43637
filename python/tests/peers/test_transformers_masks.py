# SPDX-License-Identifier: Apache-2.0
"""The masks of attn_implementation="kumiko", apart from models: right against transformers' own, small, and without effect on bits."""

import itertools
import warnings

import pytest
import torch
import transformers as hf
from transformers import masking_utils

import kumiko.torch
import kumiko.transformers as taken
from kumiko._masks import dense_mask, is_padding, is_reach, pattern_of

CAUSAL, ALL = masking_utils.causal_mask_function, masking_utils.bidirectional_mask_function
FUNCTIONS = {
    "causal": CAUSAL,
    "window": masking_utils.sliding_window_causal_mask_function(7),
    "all": ALL,
    "both ways": masking_utils.sliding_window_bidirectional_mask_function(7),
}


class Module(torch.nn.Module):
    is_causal = True


def tensors(batch, q_len, kv_len, q_heads=4, kv_heads=2, dim=32, dtype=torch.float32, seed=0):
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, heads, length, dim, generator=random).to(dtype)
            for heads, length in ((q_heads, q_len), (kv_heads, kv_len), (kv_heads, kv_len))]


def padding(batch, length, side):
    pads = torch.arange(batch)[:, None] * 5 % max(length - 1, 1)
    at = torch.arange(length)
    return {"none": None, "left": at >= pads, "right": at < length - pads, "holes": (at % 5 != 3) | (at < pads)}[side]


def attend(module, tensors, mask, name, **arguments):
    """kumiko_attention, without causality of its own where the kind has none."""
    module.is_causal = name in ("causal", "window")
    with torch.no_grad():
        return taken.kumiko_attention(module, *tensors, mask, **arguments)[0]


@pytest.mark.parametrize("side", ["none", "left", "right", "holes"])
@pytest.mark.parametrize("q_length, offset, spare", [(23, 0, 0), (23, 0, 9), (6, 17, 0), (6, 17, 4), (1, 22, 0), (1, 22, 9)])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_masks_hide_what_transformers_masks_hide(name, q_length, offset, spare, side):
    causal = name in ("causal", "window")
    used, batch = offset + q_length, 4
    kv_length = used + spare if causal else q_length
    offset = offset if causal else 0
    known = padding(batch, used if causal else kv_length, side)
    arguments = {"batch_size": batch, "q_length": q_length, "kv_length": kv_length, "q_offset": offset,
                 "mask_function": FUNCTIONS[name], "attention_mask": known, "local_size": 7 if name in ("window", "both ways") else None}
    mask = taken.kumiko_mask(**arguments, allow_is_causal_skip=causal, allow_is_bidirectional_skip=not causal)
    dense = masking_utils.sdpa_mask(**arguments, allow_is_causal_skip=False)
    assert mask is None or is_reach(mask) and mask.shape[2:] == (q_length, used if causal else kv_length)
    if mask is not None:
        assert torch.equal(dense_mask(mask, q_length), dense[..., : mask.shape[-1]]) and not dense[..., mask.shape[-1]:].any()
    q, k, v = tensors(batch, q_length, kv_length)
    scores = torch.einsum("bhid,bhjd->bhij", q.double(), k.double().repeat_interleave(2, 1)) * 32**-0.5
    right = scores.masked_fill(~dense, -torch.inf).softmax(-1).nan_to_num() @ v.double().repeat_interleave(2, 1)
    found = attend(Module(), (q, k, v), mask, name).transpose(1, 2)
    tokens = torch.ones(batch, q_length, dtype=torch.bool) if known is None else known[:, -q_length:]  # what the others give has no meaning
    rows = (dense.any(-1)[:, 0] & tokens)[:, None].expand(-1, 4, -1)
    assert rows.any() and (found - right)[rows].abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name, step", [*itertools.product(FUNCTIONS, ["prefill", "decode", "static decode"])])
def test_a_prompt_alone_and_in_a_padded_batch_has_the_same_bits(name, step, side, dtype):
    causal = name in ("causal", "window")
    if step != "prefill" and (not causal or side == "right"):
        return  # an encoder has no steps, and a decoder's new keys follow a prompt padded on the left
    lengths, longest = (700, 530, 1, 256), 700
    q_len = longest if step == "prefill" else 1
    q, k, v = tensors(4, q_len, longest, dtype=dtype)
    begins = [longest - n if side == "left" else 0 for n in lengths]
    known = torch.stack([(torch.arange(longest) >= b) & (torch.arange(longest) < b + n) for b, n in zip(begins, lengths)])

    def mask(batch, q_length, kv_length, attention_mask):
        skip = step != "static decode"
        return taken.kumiko_mask(batch, q_length, kv_length, kv_length - q_length, mask_function=FUNCTIONS[name],
                                 attention_mask=attention_mask, allow_is_causal_skip=causal and skip,
                                 allow_is_bidirectional_skip=not causal and skip)
    whole = mask(4, q_len, longest, known)
    assert is_reach(whole) or is_padding(whole) and step == "static decode"
    together = attend(Module(), (q, k, v), whole, name)
    for i, (begin, length) in enumerate(zip(begins, lengths)):
        keys = slice(begin, begin + length)
        rows = keys if step == "prefill" else slice(0, 1)
        own = [x[i : i + 1, :, part] for x, part in ((q, rows), (k, keys), (v, keys))]
        alone = attend(Module(), own, mask(1, own[0].shape[2], length, None), name)
        assert torch.equal(together[i, rows], alone[0]), (i, (together[i, rows] - alone[0]).abs().max())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_masks_and_attention_of_long_prompts_need_little_memory(name):
    """2 x 4096 x 4096 booleans are 32 MiB; what is made here is counted where PyTorch allocates it."""
    length = 4096
    known = padding(2, length, "left")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        causal = name in ("causal", "window")
        mask = taken.kumiko_mask(2, length, length, mask_function=FUNCTIONS[name], attention_mask=known,
                                 allow_is_causal_skip=causal, allow_is_bidirectional_skip=not causal)
        attend(Module(), tensors(2, length, length, 1, 1, 8), mask, name)
    allocated = [event.cpu_memory_usage for event in profile.events()]
    assert 1 << 10 < max(allocated) < 2 << 20


def test_other_patterns_are_full_masks():
    chunked = masking_utils.chunked_causal_mask_function(4, torch.zeros(2, dtype=int))
    for function in (chunked, masking_utils.or_masks(CAUSAL, ALL), masking_utils.and_masks(CAUSAL, lambda b, h, q, k: k <= q)):
        mask = taken.kumiko_mask(2, 12, 12, mask_function=function, local_size=4)
        assert mask.dtype == torch.bool and mask.shape == (2, 1, 12, 12)


def test_a_pattern_is_found_once():
    mask = taken.kumiko_mask(2, 9, 9, attention_mask=padding(2, 9, "left"))
    assert pattern_of(mask) is pattern_of(mask) and pattern_of(mask)[:4] == (-1, 0, [0, 5], [9, 9])
    assert pattern_of(mask[..., :7]).ends == [7, 7]  # a model may cut a mask


@pytest.mark.parametrize("side", ["none", "left", "right"])
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_model_may_keep_the_last_queries_alone(name, count, side):
    causal = name in ("causal", "window")
    q, k, v = tensors(3, 21, 21)
    mask = taken.kumiko_mask(3, 21, 21, mask_function=FUNCTIONS[name], attention_mask=padding(3, 21, side),
                             allow_is_causal_skip=causal, allow_is_bidirectional_skip=not causal)
    part = None if mask is None else mask[:, :, slice(-count, None), :]
    whole = attend(Module(), (q, k, v), mask, name)
    assert torch.equal(attend(Module(), (q[:, :, -count:], k, v), part, name), whole[:, -count:])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_padding_of_the_callers_may_change(mode):
    with mode():
        q, k, v = tensors(2, 9, 13)
        mask = torch.ones(2, 1, 1, 13, dtype=torch.bool)
        for keys in (13, 5):
            mask[..., keys:] = False
            found = attend(Module(), (q, k, v), mask, "all")
            assert torch.equal(found, attend(Module(), (q, k[:, :, :keys], v[:, :, :keys]), None, "all"))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_sequence_of_padding_alone_gives_zeros(name):
    known = torch.tensor([[True] * 9, [False] * 9])
    mask = taken.kumiko_mask(2, 9, 9, mask_function=FUNCTIONS[name], attention_mask=known, allow_is_bidirectional_skip=True)
    found = attend(Module(), tensors(2, 9, 9), mask, name)
    assert is_reach(mask) and found[0].abs().min() > 0 and not found[1].any()


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_masks_of_the_models_own(kind):
    q, k, v = tensors(2, 9, 13)
    seen = torch.rand(2, 4, 9, 13, generator=torch.Generator().manual_seed(5)) < 0.6
    mask = seen if kind == "bool" else torch.where(seen, 0.0, torch.finfo(torch.float32).min)
    bias = torch.randn(1, 4, 9, 13, generator=torch.Generator().manual_seed(6))
    right = torch.nn.functional.scaled_dot_product_attention(q, k, v, torch.where(seen, bias, -torch.inf), scale=0.3, enable_gqa=True)
    found = attend(Module(), (q, k, v), mask, "causal", position_bias=bias, scaling=0.3).transpose(1, 2)
    torch.testing.assert_close(found, right, rtol=0, atol=1e-5)


@pytest.mark.parametrize("q_len, kv_len", [(9, 13), (1, 13), (1, 1)])
@pytest.mark.parametrize("shape", ["heads", "queries", "keys"])
def test_masks_and_biases_of_fewer_dimensions_broadcast(shape, q_len, kv_len):
    q, k, v = tensors(4, q_len, kv_len)
    given = {"heads": (4, q_len, kv_len), "queries": (q_len, kv_len), "keys": (kv_len,)}[shape]
    random = torch.Generator().manual_seed(8)
    seen, bias = torch.rand(given, generator=random) < 0.6, torch.randn(given, generator=random)
    seen[..., 0] = True
    reach = taken.kumiko_mask(4, q_len, kv_len, q_offset=kv_len - q_len, attention_mask=padding(4, kv_len, "left"), allow_is_causal_skip=True)
    for mask, more in ((seen, {}), (bias, {}), (seen, {"position_bias": bias}), (reach, {"position_bias": bias})):
        wide = mask if mask is None or mask.is_complex() else mask.expand(4, 4, q_len, kv_len)
        right = attend(Module(), (q, k, v), wide, "causal", **{name: x.expand(4, 4, q_len, kv_len) for name, x in more.items()})
        assert torch.equal(attend(Module(), (q, k, v), mask, "causal", **more), right)


def test_what_has_dropout_is_pytorchs_and_says_so(monkeypatch):
    monkeypatch.setenv("KUMIKO_VERBOSE", "1")
    monkeypatch.setattr(kumiko.torch, "_said", set())
    for name, side in itertools.product(FUNCTIONS, ["none", "left", "right"]):
        causal = name in ("causal", "window")
        q, k, v = tensors(3, 21, 21)
        mask = taken.kumiko_mask(3, 21, 21, mask_function=FUNCTIONS[name], attention_mask=padding(3, 21, side),
                                 allow_is_causal_skip=causal, allow_is_bidirectional_skip=not causal)
        right = attend(Module(), (q, k, v), mask, name, softcap=2.0)
        module = Module()
        module.is_causal = causal
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = taken.kumiko_attention(module, q.requires_grad_(), k, v, mask, dropout=1e-12, softcap=2.0)[0]
        rows = right.abs().amax(-1) > 0
        torch.testing.assert_close(found[rows], right[rows], rtol=0, atol=1e-5)
        found.sum().backward()
        assert q.grad is not None
    assert kumiko.torch._said == {'attn_implementation="kumiko" is PyTorch\'s: dropout is 1e-12, expected 0'}


def test_attention_sinks_are_refused():
    with pytest.raises(NotImplementedError, match="s_aux is given"):
        taken.kumiko_attention(Module(), *tensors(1, 3, 3), None, s_aux=torch.zeros(4))


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_compiled_models_call_the_operator(cache):
    config = hf.LlamaConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=96,
                            vocab_size=199, initializer_range=0.15)
    torch.manual_seed(7)
    model = hf.LlamaForCausalLM(config).eval()
    model.set_attn_implementation("kumiko")
    tokens = torch.randint(0, 199, (2, 12))
    known = padding(2, 13, "left").long()
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph
    compiled = torch.compile(model.forward, backend=backend, fullgraph=True)
    results = []
    with torch.no_grad():
        for forward in (model.forward, compiled):
            torch._dynamo.reset()
            past = hf.DynamicCache(config=config) if cache == "dynamic" else hf.StaticCache(config=config, max_cache_len=32)
            model(tokens, attention_mask=known[:, :12], past_key_values=past)
            step = {"attention_mask": known, "past_key_values": past, "position_ids": torch.tensor([[12], [7]])}
            results.append(forward(tokens[:, :1], **step).logits)
    names = [str(node.target) for graph in graphs for node in graph.graph.nodes]
    assert sum("kumiko" in name and "attention" in name for name in names) == 2
    torch.testing.assert_close(*results, rtol=0, atol=1e-5)
