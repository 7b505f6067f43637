# SPDX-License-Identifier: Apache-2.0
"""attn_implementation="kumiko": models of random weights give the logits and the tokens of eager attention."""

import warnings

import pytest
import torch
import transformers as hf

import kumiko.torch
import kumiko.transformers as taken

VOCABULARY, STEPS = 199, 64
# Weights large enough that attention is not uniform, which a mean of the values would pass.
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96, "vocab_size": VOCABULARY,
         "initializer_range": 0.15, "tie_word_embeddings": False, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
GROUPED = {**SMALL, "num_key_value_heads": 2, "head_dim": 24}
LAYERS = {"layer_types": ["sliding_attention", "full_attention"]}

DECODERS = {
    "llama": (hf.LlamaForCausalLM, lambda: hf.LlamaConfig(**GROUPED)),
    "qwen3": (hf.Qwen3ForCausalLM, lambda: hf.Qwen3Config(**GROUPED)),
    "mistral": (hf.MistralForCausalLM, lambda: hf.MistralConfig(**GROUPED, sliding_window=16)),
    "gemma2": (hf.Gemma2ForCausalLM, lambda: hf.Gemma2Config(
        **GROUPED, **LAYERS, sliding_window=16, attn_logit_softcapping=5.0, query_pre_attn_scalar=24)),
    "gemma3": (hf.Gemma3ForCausalLM, lambda: hf.Gemma3TextConfig(**GROUPED, **LAYERS, sliding_window=16, query_pre_attn_scalar=24)),
    "gpt2": (hf.GPT2LMHeadModel, lambda: hf.GPT2Config(
        n_embd=64, n_layer=2, n_head=4, vocab_size=VOCABULARY, n_positions=512, initializer_range=0.15, tie_word_embeddings=False,
        pad_token_id=0, bos_token_id=1, eos_token_id=None)),
}
T5 = {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4, "vocab_size": VOCABULARY, "pad_token_id": 0,
      "eos_token_id": None, "decoder_start_token_id": 0}
WHISPER = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
           "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "num_mel_bins": 20, "max_source_positions": 50, "vocab_size": VOCABULARY,
           "max_target_positions": 256, "init_std": 0.15, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None,
           "decoder_start_token_id": 1}
ENCODERS = {
    "bert": (hf.BertForMaskedLM, lambda: hf.BertConfig(**SMALL)),
    "modernbert": (hf.ModernBertForMaskedLM, lambda: hf.ModernBertConfig(
        **{**SMALL, "cls_token_id": 1, "sep_token_id": 2}, local_attention=16, global_attn_every_n_layers=2)),
}


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """Arguments of the calls that reach Kumiko. A call that goes elsewhere is an error."""
    found = []
    real = taken.attention
    monkeypatch.setattr(taken, "attention", lambda *a, **k: (found.append(a), real(*a, **k))[1])
    monkeypatch.setenv("KUMIKO_VERBOSE", "1")
    monkeypatch.setattr(kumiko.torch, "_said", set())
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error", kumiko.torch.FallbackWarning)
        yield found


def made(kind, config, dtype=torch.float32):
    torch.manual_seed(16)
    model = kind(config()).eval()
    if kind is hf.T5ForConditionalGeneration:  # its own initialisation has scores near 0
        for name, weight in model.named_parameters():
            if name.endswith((".q.weight", ".k.weight", "relative_attention_bias.weight")):
                weight.mul_(4)
    return model.to(dtype)


def both(model, function, calls):
    """function(model) with eager attention, and with Kumiko, which must be called."""
    results = []
    for name in ("eager", "kumiko"):
        model.set_attn_implementation(name)
        calls.clear()
        results.append(function(model))
        assert bool(calls) == (name == "kumiko")
    return results


def prompt(batch=3, length=40, seed=0):
    """Tokens, and the mask of a batch padded on the left by 0, 11 and 25."""
    tokens = torch.randint(3, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))
    return tokens, (torch.arange(length) >= torch.tensor([0, 11, 25])[:batch, None]).long()


def positions(mask):
    return (mask.cumsum(-1) - 1).clamp(min=0)


def close(right, found, bound=1e-4):
    assert torch.isfinite(right).all() and right.abs().max() > 1
    assert (right - found).abs().max() <= bound


@pytest.mark.parametrize("name", DECODERS)
def test_logits_of_decoders(name, calls):
    tokens, mask = prompt()
    model = made(*DECODERS[name])
    close(*both(model, lambda m: m(tokens).logits, calls))
    for padding in (mask, mask.flip(-1), mask | mask.flip(-1)):  # on the left, on the right, and in the middle
        close(*both(model, lambda m: m(tokens, attention_mask=padding, position_ids=positions(padding)).logits[padding.bool()], calls))


@pytest.mark.parametrize("cache", ["dynamic", "static", "none"])
@pytest.mark.parametrize("name", DECODERS)
def test_greedy_tokens_of_decoders(name, cache, calls):
    tokens, mask = prompt()
    how = {"use_cache": False} if cache == "none" else {"cache_implementation": cache, "disable_compile": True}
    eager, ours = both(made(*DECODERS[name]), lambda m: m.generate(
        tokens, attention_mask=mask, do_sample=False, max_new_tokens=STEPS, **how), calls)
    assert eager.shape == (3, 40 + STEPS) and torch.equal(eager, ours)
    assert eager[:, 40:].unique().numel() > 8


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_a_prompt_in_chunks(name, calls):
    """Several queries against a cache: the causal diagonal ends at the last key."""
    tokens, mask = prompt()

    def chunks(model):
        cache = hf.DynamicCache(config=model.config)
        return torch.cat([model(tokens[:, a:b], attention_mask=mask[:, :b], position_ids=positions(mask)[:, a:b],
                                past_key_values=cache).logits for a, b in ((0, 13), (13, 31), (31, 40))], 1)[mask.bool()]
    model = made(*DECODERS[name])
    close(*both(model, chunks, calls))
    close(model(tokens, attention_mask=mask, position_ids=positions(mask)).logits[mask.bool()], chunks(model))


def test_layers_that_share_keys_and_compute_the_last_query_alone(calls):
    """Gemma 4 cuts its masks for them where a prompt's last logits are wanted, as in generate()."""
    tokens, mask = prompt()
    model = made(hf.Gemma4ForCausalLM, lambda: hf.Gemma4TextConfig(
        **{**GROUPED, "num_hidden_layers": 4}, layer_types=LAYERS["layer_types"] * 2, sliding_window=16, global_head_dim=24, num_kv_shared_layers=2,
        hidden_size_per_layer_input=8, vocab_size_per_layer_input=VOCABULARY))
    for keep in (1, 3):
        close(*both(model, lambda m: m(tokens, attention_mask=mask, position_ids=positions(mask), logits_to_keep=keep).logits, calls))
    eager, ours = both(model, lambda m: m.generate(tokens, attention_mask=mask, do_sample=False, max_new_tokens=STEPS), calls)
    assert eager.shape == (3, 40 + STEPS) and torch.equal(eager, ours)


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(name, calls):
    tokens, mask = prompt()
    model = made(*ENCODERS[name])
    close(*both(model, lambda m: m(tokens).logits, calls))
    for padding in (mask, mask.flip(-1), mask | mask.flip(-1)):
        close(*both(model, lambda m: m(tokens, attention_mask=padding).logits[padding.bool()], calls))


def test_t5(calls):
    tokens, mask = prompt()
    mask = mask.flip(-1)
    model = made(hf.T5ForConditionalGeneration, lambda: hf.T5Config(**T5))
    close(*both(model, lambda m: m(input_ids=tokens, attention_mask=mask, decoder_input_ids=tokens[:, :20]).logits, calls))
    eager, ours = both(model, lambda m: m.generate(tokens, attention_mask=mask, do_sample=False, max_new_tokens=STEPS), calls)
    assert eager.shape == (3, 1 + STEPS) and torch.equal(eager, ours)


def test_whisper(calls):
    sound = torch.randn(2, 20, 100, generator=torch.Generator().manual_seed(1))
    tokens, _ = prompt(2)
    model = made(hf.WhisperForConditionalGeneration, lambda: hf.WhisperConfig(**WHISPER))
    close(*both(model, lambda m: m(input_features=sound, decoder_input_ids=tokens).logits, calls))
    model.generation_config.suppress_tokens = model.generation_config.begin_suppress_tokens = None
    eager, ours = both(model, lambda m: m.generate(sound, do_sample=False, max_new_tokens=STEPS), calls)
    assert eager.shape[-1] >= STEPS and torch.equal(eager, ours)


def test_vit(calls):
    model = made(hf.ViTForImageClassification, lambda: hf.ViTConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, image_size=64, patch_size=8,
        initializer_range=0.15, num_labels=10))
    close(*both(model, lambda m: m(torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(2))).logits, calls))


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_bf16_is_as_near_to_f32_as_eager_is(name, calls):
    kind, config = {**DECODERS, **ENCODERS}[name]
    tokens, mask = prompt()
    mask = mask.flip(-1)
    exact = made(kind, config)
    exact.set_attn_implementation("eager")
    right = exact(tokens, attention_mask=mask).logits[mask.bool()]
    eager, ours = (x.float() for x in both(made(kind, config, torch.bfloat16), lambda m: m(tokens, attention_mask=mask).logits[mask.bool()], calls))
    spread = right.abs().max()
    assert (ours - right).abs().max() <= 0.05 * spread
    assert (ours - right).square().mean().sqrt() <= 1.1 * (eager - right).square().mean().sqrt()
