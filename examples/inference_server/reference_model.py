"""The same sentence encoder in fp64, written from the papers and sharing nothing with the server: the yardstick of demo.py and
of tests/inference_server. Tokens come from the `tokenizers` package and the model's own tokenizer.json.
"""

import json
import pathlib

import numpy as np
import safetensors.numpy
import scipy.special
import tokenizers


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
        """Unit vector [hidden] of one text, without any batching or padding."""
        ids = self.token_ids(text)
        if len(ids) > self.max_tokens:
            raise ValueError(f"the text has {len(ids)} word pieces, at most {self.max_tokens} fit")
        w = self.weights
        x = w["embeddings.word_embeddings.weight"][ids]
        x = x + w["embeddings.position_embeddings.weight"][: len(ids)]
        x = x + w["embeddings.token_type_embeddings.weight"][0]
        x = self._layer_norm(x, "embeddings.LayerNorm")
        for layer in range(self.config["num_hidden_layers"]):
            prefix = f"encoder.layer.{layer}"
            attended = self._linear(self._attention(x, f"{prefix}.attention.self"), f"{prefix}.attention.output.dense")
            x = self._layer_norm(x + attended, f"{prefix}.attention.output.LayerNorm")
            wide = self._linear(x, f"{prefix}.intermediate.dense")
            wide = 0.5 * wide * (1.0 + scipy.special.erf(wide / np.sqrt(2.0)))
            x = self._layer_norm(x + self._linear(wide, f"{prefix}.output.dense"), f"{prefix}.output.LayerNorm")
        mean = x.mean(axis=0)
        return mean / np.linalg.norm(mean)

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def _layer_norm(self, x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = (centred**2).mean(axis=-1, keepdims=True)
        unit = centred / np.sqrt(variance + self.config["layer_norm_eps"])
        return unit * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def _attention(self, x: np.ndarray, name: str) -> np.ndarray:
        heads = self.config["num_attention_heads"]
        tokens, hidden = x.shape
        q, k, v = (
            self._linear(x, f"{name}.{part}").reshape(tokens, heads, hidden // heads).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(hidden // heads)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return (weights @ v).transpose(1, 0, 2).reshape(tokens, hidden)
