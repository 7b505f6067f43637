# SPDX-License-Identifier: Apache-2.0
"""What models of transformers pass to an attention beside tensors and mask: it counts, is refused, or changes nothing."""

import ast
import inspect
from pathlib import Path

import pytest
import torch
import transformers as hf

import kumiko.transformers as taken

# They say nothing that mask, tensors and the other arguments do not say.
HARMLESS = {"sliding_window", "position_ids", "output_attentions", "deterministic", "max_length_q", "max_length_k"}
COUNTS = {"s_aux", "cu_seq_lens_q", "cu_seq_lens_k"}


def tensors(dtype=torch.float32):
    random = torch.Generator().manual_seed(3)
    return [torch.randn(1, heads, 12, 16, generator=random).to(dtype) for heads in (4, 2, 2)]


def test_every_keyword_of_an_installed_model_is_known():
    """A new one in a later transformers may be one that changes results."""
    known = {*inspect.signature(taken.kumiko_attention).parameters, *HARMLESS, *COUNTS, *taken._REFUSED}
    found = {}
    for path in Path(hf.__file__).parent.glob("models/*/modeling_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "attention_interface":
                found.update({word.arg: path.stem for word in node.keywords if word.arg})
    assert len(found) > 10 and {name: model for name, model in found.items() if name not in known} == {}


@pytest.mark.parametrize("cache", [None, object()], ids=["no cache", "paged cache"])
@pytest.mark.parametrize("name", ["indices", "block_indices", "sinks"])
def test_what_would_change_the_result_is_refused(name, cache):
    q, k, v = tensors()
    with pytest.raises(NotImplementedError, match=f"^{name} is given"):
        taken.kumiko_attention(torch.nn.Module(), q, k, v, None, cache=cache, **{name: torch.zeros(1)})
    taken.kumiko_attention(torch.nn.Module(), q, k, v, None, **{name: None})


def test_a_bias_with_a_paged_cache_is_refused():
    with pytest.raises(NotImplementedError, match="a paged cache: position_bias is given"):
        taken.kumiko_attention(torch.nn.Module(), *tensors(), None, cache=object(), position_bias=torch.zeros(1, 4, 12, 12))


def packed(*given, starts=(0, 5, 6, 12), **arguments):
    starts = torch.tensor(starts, dtype=torch.int32)
    return taken.kumiko_attention(torch.nn.Module(), *given, None, cu_seq_lens_q=starts, cu_seq_lens_k=starts, max_length_q=6, max_length_k=6, **arguments)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("causal", [False, True])
def test_packed_sequences_are_apart(causal, dtype):
    """With their own bits, and gradients; float64 is PyTorch's."""
    given = [x.requires_grad_() for x in tensors(dtype)]
    parts = zip(*(x.split([5, 1, 6], 2) for x in given), strict=True)
    alone = torch.cat([taken.kumiko_attention(torch.nn.Module(), *part, None, is_causal=causal)[0] for part in parts], 1)
    found = packed(*given, is_causal=causal)
    assert torch.equal(found, alone)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(4)).to(dtype)
    for ours, right in zip(torch.autograd.grad(found, given, weights), torch.autograd.grad(alone, given, weights), strict=True):
        assert torch.equal(ours, right)
    with torch.no_grad():
        assert torch.equal(packed(*given, is_causal=causal), alone)


def test_packed_sequences_that_do_not_fit_are_errors():
    q, k, v = tensors()
    with pytest.raises(ValueError, match=r"cu_seq_lens_q\[-1\] is 11, expected 12"):
        packed(q, k, v, starts=(0, 11))
    with pytest.raises(NotImplementedError, match=r"query.shape\[0\] 2, expected 1"):
        packed(*(x.expand(2, -1, -1, -1) for x in (q, k, v)))
    with pytest.raises(NotImplementedError, match="position_bias is given with cu_seq_lens_q"):
        packed(q, k, v, position_bias=torch.zeros(1, 4, 12, 12))


@pytest.mark.parametrize("paged", [False, True])
def test_images_of_a_vision_tower_are_apart(paged):
    """Qwen2.5-VL's has windows, and images in some layers: as flash attention's they come in one call."""
    from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel
    torch.manual_seed(16)
    model = Qwen2_5_VisionTransformerPretrainedModel(Qwen2_5_VLVisionConfig(
        depth=2, hidden_size=64, num_heads=4, intermediate_size=96, out_hidden_size=64, patch_size=4, window_size=16,
        fullatt_block_indexes=[1], initializer_range=0.15)).eval()
    grid = torch.tensor([[1, 8, 12], [1, 6, 4]])
    pixels = torch.randn(int(grid.prod(-1).sum()), 3 * 2 * 4 * 4, generator=torch.Generator().manual_seed(2))
    results = []
    with torch.no_grad():
        for name in ("eager", "kumiko"):
            model.set_attn_implementation(name)
            if paged and name == "kumiko":
                taken.use_paged(model)
            results.append(model(pixels, grid_thw=grid).pooler_output)
    assert results[0].abs().max() > 1
    torch.testing.assert_close(*results, rtol=0, atol=1e-4)
