# SPDX-License-Identifier: Apache-2.0
"""Whole models of transformers on eager attention, PyTorch's SDPA and Kumiko: what a user gains end to end.

The weights are random, which changes no time. Attention's share is found by a fourth run whose attention does nothing.
"""

import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import transformers as hf
from transformers import AttentionInterface, AttentionMaskInterface

from kumiko.transformers import kumiko_mask

from .measure import rest, spread

WAYS = ("eager", "sdpa", "kumiko")
NOTHING = "kumiko_bench_nothing"
LAYERS, HEADS = 12, 12  # Of the Llama.
STEPS = 8  # Tokens of one timed decode.
BOUND = 1e-3  # Of the largest output.


class Model(NamedTuple):
    name: str
    unit: str
    amount: int  # of the unit, in one run
    module: torch.nn.Module
    run: Callable[[str], torch.Tensor]  # of the way that is set; its output
    eager_bytes: int = 0  # of a layer's scores and probabilities, which eager attention keeps whole


def _nothing(module, query, key, value, attention_mask, **others):
    return query.new_zeros((query.shape[0], query.shape[2], query.shape[1], value.shape[3])), None


def _minilm() -> Model:
    config = hf.BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    model, tokens = hf.BertModel(config).eval(), torch.randint(0, config.vocab_size, (8, 128))
    return Model("MiniLM, 8 sentences of 128 tokens", "sentences/s", 8, model, lambda _: model(tokens).last_hidden_state)


def _vit() -> Model:
    model, images = hf.ViTModel(hf.ViTConfig()).eval(), torch.randn(4, 3, 224, 224)
    return Model("ViT-B/16, 4 images of 224 x 224", "images/s", 4, model, lambda _: model(images).last_hidden_state)


def _llama() -> torch.nn.Module:
    return hf.LlamaForCausalLM(hf.LlamaConfig(
        hidden_size=768, num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=4, intermediate_size=2048, vocab_size=32000,
        tie_word_embeddings=True, max_position_embeddings=32768)).eval()


def _prefill(length: int) -> Model:
    model, tokens = _llama(), torch.randint(0, 32000, (1, length))
    return Model(f"Llama of 100 M parameters, prefill of {length} tokens", "tokens/s", length, model,
                 lambda _: model(tokens, logits_to_keep=1, use_cache=False).logits, eager_bytes=2 * 4 * HEADS * length**2)


def _decode(length: int) -> Model:
    model, tokens, caches = _llama(), torch.randint(0, 32000, (1, length)), {}

    def run(way: str) -> torch.Tensor:
        if way not in caches:
            model.set_attn_implementation("kumiko")
            caches[way] = hf.StaticCache(config=model.config, max_cache_len=length + STEPS)
            model(tokens, logits_to_keep=1, past_key_values=caches[way])
            model.set_attn_implementation(way)
        for layer in caches[way].layers:
            layer.cumulative_length.fill_(length)
        for i in range(STEPS):
            out = model(tokens[:, i : i + 1], past_key_values=caches[way], position_ids=torch.tensor([[length + i]])).logits
        return out
    return Model(f"Llama of 100 M parameters, decode at {length} tokens", "tokens/s", STEPS, model, run)


def _free_bytes() -> int:
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("/proc/meminfo has no line 'MemAvailable'")


def models(lengths: tuple[int, ...]) -> list[Callable[[], Model]]:
    """Each is made when its turn comes."""
    return [_minilm, _vit, *(lambda kind=kind, n=n: kind(n) for n in lengths for kind in (_prefill, _decode))]


def measure_model(make: Callable[[], Model], threads: int, rounds: int) -> dict[str, Any]:
    """Rates, attention's share of the time, and Kumiko's gain over the others: medians of the rounds, and quartiles.

    Eager attention is left out where its scores would not fit into memory; outputs are then compared with SDPA's.
    """
    AttentionInterface.register(NOTHING, _nothing)
    AttentionMaskInterface.register(NOTHING, kumiko_mask)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model, outputs = make(), {}
    ways = WAYS if model.eager_bytes < _free_bytes() else WAYS[1:]
    seconds: dict[str, list[float]] = {way: [] for way in (*ways, NOTHING)}
    with torch.inference_mode():
        for i in range(-1, rounds):  # The first one warms up and is checked.
            for way in seconds:
                model.module.set_attn_implementation(way)
                if i < 0:
                    outputs[way] = model.run(way)
                    continue
                begin = time.perf_counter()
                model.run(way)
                seconds[way].append(time.perf_counter() - begin)
                rest()
    error = ((outputs["kumiko"] - outputs[ways[0]]).abs().max() / outputs[ways[0]].abs().max()).item()
    middle = {way: statistics.median(found) for way, found in seconds.items()}
    gains = {way: spread([a / b for a, b in zip(seconds[way], seconds["kumiko"], strict=True)]) for way in ways[:-1]}
    return {"model": model.name, "unit": model.unit, "rate": {way: model.amount / middle[way] for way in ways}, "error": error,
            "compared_with": ways[0],
            "share": {way: max(0.0, 1 - middle[NOTHING] / middle[way]) for way in ways}, "gain": gains}


def says(row: dict[str, Any]) -> str:
    """What a user gains over SDPA, the default of transformers."""
    gain = row["gain"]["sdpa"]
    if gain["low"] <= 1 <= gain["high"] or 0.98 < gain["median"] < 1.02:
        return "gains nothing over SDPA"
    eager = f"{row['gain']['eager']['median']:.2f} times eager's" if "eager" in row["gain"] else "eager attention would not fit into memory"
    return f"{gain['median']:.2f} times SDPA's rate ({gain['low']:.2f}-{gain['high']:.2f}), {eager}"


def model_table(rows: list[dict[str, Any]]) -> str:
    """One block a model."""
    lines = []
    for row in rows:
        lines.append(f"{row['model']}: {says(row)}")
        for way in row["rate"]:
            lines.append(f"  {way:<8}{row['rate'][way]:10.1f} {row['unit']}, attention {row['share'][way]:4.0%} of the time")
    return "\n".join(lines)
