# SPDX-License-Identifier: Apache-2.0
"""Vectors against the fp64 forward pass, and that they do not depend on the other texts of a batch."""

import copy
import json
import re

import numpy as np
import pytest

from reference_model import MAX_RELATIVE_ERROR, relative_error
from server_process import DATA, Client, sentences
from support import Background, metric

TEXTS = [
    "",
    "a",
    "Hello, world!",
    "Ünïcödé and 漢字 and emoji 🎉 in one sentence.",
    "[MASK] is a special token, and so is [SEP].",
    "word " * 254,  # the longest allowed: 256 word pieces
    "x" * 101,  # one word above the tokenizer's limit: [UNK]
    " ".join(sentences()[:12]),
]


def kernels(client):
    """Of the linear layers, by oneDNN's name."""
    build = next(line for line in client.get("/metrics").text.splitlines() if line.startswith("kumiko_build_info"))
    return re.search(r'linear_kernels="([^"]+)"', build)[1]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_special_texts_match_fp64(client, reference, text):
    [vector] = client.embed([text])
    assert relative_error(vector, reference.embed(text)) <= MAX_RELATIVE_ERROR


def test_all_example_sentences_match_fp64(client, reference):
    texts = sentences()
    assert len(texts) >= 300
    served = [vector for i in range(0, len(texts), 100) for vector in client.embed(texts[i : i + 100])]
    errors = [relative_error(vector, exact) for vector, exact in zip(served, reference.embed_all(texts), strict=True)]
    assert all(error <= MAX_RELATIVE_ERROR for error in errors), max(errors)  # max() may pass over a NaN


def scaled_head(model, head):
    """The query of one head of layer 0 times 1.001: its softmax scale off by 0.1 %."""
    size = model.config["hidden_size"] // model.config["num_attention_heads"]
    for part in ("weight", "bias"):
        name = f"encoder.layer.0.attention.self.query.{part}"
        model.weights[name] = model.weights[name].copy()
        model.weights[name][head * size : (head + 1) * size] *= 1.001


def larger_epsilon(model):
    """1e-6 instead of the model's 1e-12 in every LayerNorm."""
    model.config["layer_norm_eps"] = 1e-6


@pytest.mark.parametrize("fault", [lambda model: scaled_head(model, 0), lambda model: scaled_head(model, 5), larger_epsilon], ids=range(3))
def test_the_bound_sees_a_small_fault(client, reference, fault):
    faulty = copy.copy(reference)
    faulty.config, faulty.weights = dict(reference.config), dict(reference.weights)
    fault(faulty)
    texts = sentences()[:16]
    errors = [relative_error(vector, exact) for vector, exact in zip(client.embed(texts), faulty.embed_all(texts), strict=True)]
    assert max(errors) > 2 * MAX_RELATIVE_ERROR


def test_the_reference_is_the_same_for_a_text_alone_and_among_others(reference):
    together = reference.embed_all(TEXTS)
    for text, vector in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(reference.embed(text), vector, rtol=0, atol=1e-13)


def test_vectors_have_unit_length_and_the_answer_says_what_it_holds(client, reference):
    texts = ["one", "two words", "three little words"]
    answer = client.post("/embed", {"texts": texts}).json()
    assert set(answer) == {"embeddings", "dim", "tokens"}
    assert answer["dim"] == 384
    assert answer["tokens"] == [len(reference.token_ids(text)) for text in texts]
    assert np.shape(answer["embeddings"]) == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(answer["embeddings"], axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("isa", ["", "AVX2"])
def test_a_text_has_the_same_vector_in_any_batch(start, monkeypatch, isa):
    if isa:  # use the kernels of a machine without AVX-512
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    else:
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    # A server whose batches wait for further texts, so that one request is one batch of the size asked for.
    server = start("--max-wait-us", "20000", "--max-batch", "64")
    client = Client(server.url)
    if isa:
        assert "avx512" not in kernels(client)
    texts = [t for t in TEXTS if t] + sentences()[:33]
    alone = np.array([client.embed([text])[0] for text in texts])
    rng = np.random.default_rng(20240607)
    for size in (2, 7, 16, 31, len(texts)):
        chosen = rng.permutation(len(texts))[:size]
        together = np.array(client.embed([texts[i] for i in chosen]))
        np.testing.assert_array_equal(together, alone[chosen])


def test_requests_of_several_clients_share_batches_and_get_their_own_vectors(start):
    server = start("--max-wait-us", "300000", "--workers", "1")
    texts = sentences()[:12]
    expected = [Client(server.url).embed([text])[0] for text in texts]
    before = metric(Client(server.url), "kumiko_batch_texts_count")
    together = Background([lambda t=t: Client(server.url).embed([t])[0] for t in texts]).results()
    assert metric(Client(server.url), "kumiko_batch_texts_count") - before < len(texts)
    np.testing.assert_allclose(together, expected, atol=1e-6)


def test_no_attention_row_beyond_the_last_vector_of_queries(start):
    server = start("--max-wait-us", "20000")
    client = Client(server.url)
    client.embed(sentences()[:32] + ["word " * 200])
    tokens = metric(client, "kumiko_tokens_total")
    rows = metric(client, "kumiko_attention_query_rows_total")
    # A batch padded to its longest text would have 33 * 202 rows; groups are padded to a multiple of 8 at most.
    assert tokens <= rows <= tokens + 7 * 33
    client.embed(["word " * n for n in (1, 1, 2, 3, 6, 14, 22)])  # 3, 3, 4, 5, 8, 16 and 24 pieces: no padding
    assert metric(client, "kumiko_attention_query_rows_total") - rows == 63


def test_search_finds_what_a_person_expects(start):
    client = Client(start().url)
    texts = sentences()
    for i in range(0, len(texts), 100):
        client.index(texts[i : i + 100])
    for entry in json.loads((DATA / "queries.json").read_text()):
        hits = client.search(entry["query"], top_k=10)
        assert hits[0]["text"] in entry["expected"], entry["query"]
        assert len(hits) == 10
        scores = [hit["score"] for hit in hits]
        assert scores == sorted(scores, reverse=True)
