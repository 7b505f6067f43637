# SPDX-License-Identifier: Apache-2.0
"""Continuous batching with Kumiko: requests of any lengths, in chunks and together, get the tokens that each gets alone by eager attention."""

import pytest
import torch
import transformers as hf
from transformers.generation.configuration_utils import ContinuousBatchingConfig

import kumiko.transformers as taken
from kumiko import _paged_cache

VOCABULARY, NEW = 199, 24
# Weights large enough that attention is not uniform, which a mean of the values would pass.
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24, "intermediate_size": 96,
         "vocab_size": VOCABULARY, "initializer_range": 0.15, "tie_word_embeddings": False, "max_position_embeddings": 512, "pad_token_id": 0,
         "bos_token_id": 1, "eos_token_id": None}
LAYERS = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16}
MODELS = {
    "llama": (hf.LlamaForCausalLM, lambda: hf.LlamaConfig(**SMALL)),
    "qwen3": (hf.Qwen3ForCausalLM, lambda: hf.Qwen3Config(**SMALL)),
    "mistral": (hf.MistralForCausalLM, lambda: hf.MistralConfig(**SMALL, sliding_window=16)),
    "gemma2": (hf.Gemma2ForCausalLM, lambda: hf.Gemma2Config(**SMALL, **LAYERS, attn_logit_softcapping=5.0, query_pre_attn_scalar=24)),
    "gpt_oss": (hf.GptOssForCausalLM, lambda: hf.GptOssConfig(**SMALL, **LAYERS, num_local_experts=2, num_experts_per_tok=1)),
}


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """How often new tokens were appended to pages, and packed sequences or pages attended to."""
    found = {"kv_append": 0, "attention": 0, "varlen_attention": 0}

    def counted(name):
        real = getattr(_paged_cache, name)

        def call(*a, **k):
            found[name] += 1
            return real(*a, **k)
        monkeypatch.setattr(_paged_cache, name, call)
    for name in found:
        counted(name)
    with torch.no_grad():
        yield found


def made(name, dtype=torch.float32):
    kind, config = MODELS[name]
    torch.manual_seed(16)
    model = kind(config()).eval()
    for key, weight in model.named_parameters():
        if key.endswith("sinks"):
            torch.nn.init.normal_(weight, 1.0)
    return model.to(dtype)


def prompts():
    """Of 3 to 90 tokens; two begin with the same 50."""
    tokens = torch.randint(3, VOCABULARY, (5, 90), generator=torch.Generator().manual_seed(2)).tolist()
    tokens[4][:50] = tokens[3][:50]
    return [row[:length] for row, length in zip(tokens, (3, 17, 90, 70, 61), strict=True)]


def alone(model, name="eager"):
    model.set_attn_implementation(name)
    return [model.generate(torch.tensor([row]), do_sample=False, max_new_tokens=NEW)[0, len(row) :].tolist() for row in prompts()]


def together(model, page_size=16, batch_tokens=32):
    """Chunks of prompts beside decodes: no more than `batch_tokens` a step."""
    found = model.generate_batch(
        inputs=prompts(), generation_config=hf.GenerationConfig(max_new_tokens=NEW, do_sample=False, eos_token_id=-1, pad_token_id=0),
        continuous_batching_config=ContinuousBatchingConfig(page_size=page_size, num_blocks=64, max_batch_tokens=batch_tokens), progress_bar=False)
    assert not any(request.error for request in found.values())
    in_order = sorted(found, key=lambda request: int(request.split("_")[-1]))
    return [list(found[request].generated_tokens) for request in in_order]


@pytest.mark.parametrize("page_size", [16, 32])
@pytest.mark.parametrize("name", MODELS)
def test_tokens_of_requests_together(name, page_size, calls):
    model = made(name)
    want = alone(model)
    assert calls == {"kv_append": 0, "attention": 0, "varlen_attention": 0}
    taken.use_paged(model)
    assert together(model, page_size) == want
    assert (calls["kv_append"] > 0) == (calls["attention"] > 0) == (name != "mistral")
    assert calls["varlen_attention"] > 0  # a step without earlier keys, and rings
    assert len({token for row in want for token in row}) > 8


def test_bits_do_not_depend_on_the_other_requests():
    """bf16 logits tie easily: whatever a request's neighbours are and however its prompt is cut, its tokens are the same."""
    model = made("llama", torch.bfloat16)
    taken.use_paged(model)
    assert together(model, batch_tokens=32) == together(model, batch_tokens=200)


def test_the_name_works_without_a_paged_cache():
    model = made("llama")
    want = alone(model)
    taken.use_paged(model)
    rows = [model.generate(torch.tensor([row]), do_sample=False, max_new_tokens=NEW)[0, len(row) :].tolist() for row in prompts()]
    assert rows == want


def test_gradients_are_refused():
    model = made("llama")
    taken.use_paged(model)
    layer = model.model.layers[0].self_attn
    q = torch.zeros(1, 4, 3, 24, requires_grad=True)
    with torch.enable_grad(), pytest.raises(NotImplementedError, match="a paged cache: a tensor requires a gradient"):
        taken.kumiko_attention(layer, q, q[:, :2], q[:, :2], None, cache=object())
