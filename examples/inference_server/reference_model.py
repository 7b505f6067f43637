# SPDX-License-Identifier: Apache-2.0
"""The same sentence encoder in fp64, written from the papers without the server's code: the yardstick of demo.py and
of tests/inference_server. Tokens come from the `tokenizers` package and the model's own tokenizer.json.
"""

import json
import math
import pathlib

import numpy as np
import safetensors.numpy
import tokenizers

# The limit of relative_error() for a served vector: four times the largest error seen with f32, 1.8e-6, over data/sentences.txt and the
# texts of tests/inference_server/test_embeddings.py (the empty one; 1.7e-6 with AVX2 kernels; the median is 7e-7).
MAX_RELATIVE_ERROR = 7e-6


def relative_error(vector: np.ndarray | list[float], exact: np.ndarray) -> float:
    """Length of the difference, relative to `exact`; inf for a vector with a NaN. (1 - cosine is half its square: too coarse.)"""
    return float(np.nan_to_num(np.linalg.norm(np.asarray(vector) - exact) / np.linalg.norm(exact), nan=np.inf))


class ReferenceModel:
    """all-MiniLM-L6-v2 from `directory` (model.safetensors, config.json, tokenizer.json, ...), everything in float64."""

    def __init__(self, directory: pathlib.Path):
        self.config = json.loads((directory / "config.json").read_text())
        self.max_tokens = json.loads((directory / "sentence_bert_config.json").read_text())["max_seq_length"]
        tensors = safetensors.numpy.load_file(directory / "model.safetensors")
        self.weights = {name: t.astype(np.float64) for name, t in tensors.items() if t.dtype == np.float32}
        self.tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()

    def token_ids(self, text: str) -> list[int]:
        """[CLS] ... [SEP], not truncated."""
        return self.tokenizer.encode(text).ids

    def embed(self, text: str) -> np.ndarray:
        """Unit vector [hidden] of one text."""
        return self.embed_all([text])[0]

    def embed_all(self, texts: list[str]) -> np.ndarray:
        """Unit vectors [texts, hidden]. The tokens of all texts are the rows of one matrix, so that the linear layers read their
        weights once; nothing is padded, and attention takes one text after the other."""
        ids = [self.token_ids(text) for text in texts]
        for own in ids:
            if len(own) > self.max_tokens:
                raise ValueError(f"the text has {len(own)} word pieces, at most {self.max_tokens} fit")
        w = self.weights
        ends = np.cumsum([len(own) for own in ids])
        spans = [slice(end - len(own), end) for own, end in zip(ids, ends, strict=True)]
        x = w["embeddings.word_embeddings.weight"][np.concatenate(ids)]
        x = x + w["embeddings.position_embeddings.weight"][np.concatenate([np.arange(len(own)) for own in ids])]
        x = x + w["embeddings.token_type_embeddings.weight"][0]
        x = self._layer_norm(x, "embeddings.LayerNorm")
        for layer in range(self.config["num_hidden_layers"]):
            prefix = f"encoder.layer.{layer}"
            attended = self._linear(self._attention(x, spans, f"{prefix}.attention.self"), f"{prefix}.attention.output.dense")
            x = self._layer_norm(x + attended, f"{prefix}.attention.output.LayerNorm")
            wide = self._gelu(self._linear(x, f"{prefix}.intermediate.dense"))
            x = self._layer_norm(x + self._linear(wide, f"{prefix}.output.dense"), f"{prefix}.output.LayerNorm")
        means = np.stack([x[span].mean(axis=0) for span in spans])
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def _layer_norm(self, x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = (centred**2).mean(axis=-1, keepdims=True)
        unit = centred / np.sqrt(variance + self.config["layer_norm_eps"])
        return unit * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    @staticmethod
    def _gelu(x: np.ndarray) -> np.ndarray:
        # NumPy has no erf; Python's is the C library's, about 60 ns a value.
        erf = np.fromiter(map(math.erf, (x / math.sqrt(2.0)).ravel().tolist()), np.float64, x.size).reshape(x.shape)
        return 0.5 * x * (1.0 + erf)

    def _attention(self, x: np.ndarray, spans: list[slice], name: str) -> np.ndarray:
        """[tokens, hidden]; the rows of a span attend to one another and to no other row."""
        heads = self.config["num_attention_heads"]
        tokens, hidden = x.shape
        q, k, v = (
            self._linear(x, f"{name}.{part}").reshape(tokens, heads, hidden // heads).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        out = np.empty((tokens, hidden))
        for span in spans:
            scores = q[:, span] @ k[:, span].transpose(0, 2, 1) / np.sqrt(hidden // heads)
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            weights /= weights.sum(axis=-1, keepdims=True)
            out[span] = (weights @ v[:, span]).transpose(1, 0, 2).reshape(-1, hidden)
        return out
