# SPDX-License-Identifier: Apache-2.0
"""The sentence encoder as an ONNX graph for ONNX Runtime, for compare.py: written in the fused operators that ONNX Runtime has for
BERT (domain com.microsoft), into which its own transformer optimizer turns an exported model. Pooling is part of the graph.
"""

import json
import pathlib

import numpy as np
import onnx
import safetensors.numpy
from onnx import TensorProto, helper, numpy_helper

MICROSOFT = "com.microsoft"


class Graph:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(self, operator: str, inputs: list[str], output: str, domain: str = "", **attributes: object) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, domain=domain, **attributes))
        return output


def build(directory: pathlib.Path) -> bytes:
    """all-MiniLM-L6-v2 from `directory` (model.safetensors, config.json): input_ids and mask, int32 [batch, seq], to vectors, f32
    [batch, hidden], of unit length. mask is 1 at tokens and 0 at padding, which follows a text's tokens.
    """
    config = json.loads((directory / "config.json").read_text())
    weights = safetensors.numpy.load_file(directory / "model.safetensors")
    graph = Graph()

    def constant(name: str) -> str:
        return graph.constant(name, weights[name])

    def product(x: str, name: str) -> str:
        return graph.add("MatMul", [x, graph.constant(f"{name}.weight", weights[f"{name}.weight"].T)], f"{name}.product")

    epsilon = config["layer_norm_eps"]
    embeddings = "embeddings"
    norm = [constant(f"{embeddings}.LayerNorm.weight"), constant(f"{embeddings}.LayerNorm.bias")]
    tables = [constant(f"{embeddings}.{part}_embeddings.weight") for part in ("word", "position", "token_type")]
    graph.add("Sub", ["mask", "mask"], "token_types")
    graph.nodes.append(helper.make_node("EmbedLayerNormalization", ["input_ids", "token_types", *tables, *norm, "mask"],
                                        ["x", "lengths"], domain=MICROSOFT, epsilon=epsilon))
    x = "x"
    for layer in range(config["num_hidden_layers"]):
        prefix = f"encoder.layer.{layer}"

        def add_norm(product_name: str, residual: str, norm_name: str) -> str:
            return graph.add("SkipLayerNormalization",
                             [product(product_name, norm_name[0]), residual, constant(f"{norm_name[1]}.weight"),
                              constant(f"{norm_name[1]}.bias"), constant(f"{norm_name[0]}.bias")],
                             f"{norm_name[1]}.out", domain=MICROSOFT, epsilon=epsilon)

        parts = [f"{prefix}.attention.self.{part}" for part in ("query", "key", "value")]
        qkv = graph.constant(f"{prefix}.qkv.weight", np.concatenate([weights[f"{part}.weight"] for part in parts]).T)
        qkv_bias = graph.constant(f"{prefix}.qkv.bias", np.concatenate([weights[f"{part}.bias"] for part in parts]))
        attended = graph.add("Attention", [x, qkv, qkv_bias, "lengths"], f"{prefix}.attended", domain=MICROSOFT,
                             num_heads=config["num_attention_heads"])
        x = add_norm(attended, x, (f"{prefix}.attention.output.dense", f"{prefix}.attention.output.LayerNorm"))
        up = f"{prefix}.intermediate.dense"
        wide = graph.add("BiasGelu", [product(x, up), constant(f"{up}.bias")], f"{up}.gelu", domain=MICROSOFT)
        x = add_norm(wide, x, (f"{prefix}.output.dense", f"{prefix}.output.LayerNorm"))
    # The mean of a text has the direction of its sum, which is the product of the mask, as a row, and the text's tokens.
    graph.add("Cast", ["mask"], "row", to=TensorProto.FLOAT)
    graph.add("Unsqueeze", ["row", graph.constant("axis", np.array([1]))], "rows")
    graph.add("MatMul", ["rows", x], "sums")
    graph.add("Squeeze", ["sums", "axis"], "sum")
    graph.add("LpNormalization", ["sum"], "vectors", axis=-1, p=2)
    shape = ["batch", "seq"]
    proto = helper.make_graph(
        graph.nodes, "encoder",
        [helper.make_tensor_value_info(name, TensorProto.INT32, shape) for name in ("input_ids", "mask")],
        [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["batch", config["hidden_size"]])],
        graph.constants)
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)],
                             ir_version=8).SerializeToString()
