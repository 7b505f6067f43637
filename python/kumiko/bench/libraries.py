# SPDX-License-Identifier: Apache-2.0
"""The libraries. ways() yields (name, make) for each way to compute a case; make() returns (call, answer): call(set) is timed,
answer() gives the output of the last call as an array. Whatever can be prepared once for many calls is prepared in make().
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import kumiko

from .cases import Case, Data

Way = tuple[str, Callable[[], tuple[Callable[[int], Any], Callable[[], np.ndarray]]]]


def _grouped(case: Case, q: np.ndarray) -> np.ndarray:
    """The heads that share a KV head, as rows of one head: one query sees all keys."""
    return q.reshape(case.batch, case.kv_heads, case.group, case.head_dim)


class Kumiko:
    def __init__(self, threads: int):
        self.context = kumiko.Context(num_threads=threads)
        self.name = f"Kumiko {kumiko.__version__}"

    def ways(self, case: Case, data: Data) -> Iterator[Way]:
        def attention():
            out = np.empty_like(data.q)

            def call(i):
                kumiko.attention(data.q, *data.sets[i], causal=case.causal, out=out, context=self.context)
            return call, lambda: out
        yield "attention", attention


class PyTorch:
    package = "torch"

    def __init__(self, threads: int):
        import torch
        self.torch, self.threads = torch, threads
        self.name = f"PyTorch {torch.__version__.split('+')[0]}"

    def tensor(self, array: np.ndarray) -> Any:
        if array.dtype.name == "bfloat16":
            return self.torch.from_numpy(array.view(np.uint16)).view(self.torch.bfloat16)
        return self.torch.from_numpy(array)

    def ways(self, case: Case, data: Data) -> Iterator[Way]:
        torch = self.torch
        sets = [[self.tensor(x) for x in kv] for kv in data.sets]

        def sdpa(queries, **more):
            q, out = self.tensor(queries), [None]

            def call(i):
                torch.set_num_threads(self.threads)
                with torch.inference_mode():
                    out[0] = torch.nn.functional.scaled_dot_product_attention(q, *sets[i], **more)
            return call, lambda: out[0].float().numpy().reshape(data.q.shape)
        if case.causal and case.q_len not in (1, case.kv_len):
            seen = torch.ones(case.q_len, case.kv_len, dtype=torch.bool).tril(case.kv_len - case.q_len)
            # Additive, in the type of the scores: a boolean mask would be converted in every call.
            mask = torch.zeros(seen.shape, dtype=sets[0][0].dtype).masked_fill_(~seen, -torch.inf)
            yield "SDPA", lambda: sdpa(data.q, attn_mask=mask, enable_gqa=case.group > 1)
        else:
            yield "SDPA", lambda: sdpa(data.q, is_causal=case.causal and case.q_len > 1, enable_gqa=case.group > 1)
        if case.q_len == 1 and case.group > 1:
            yield "SDPA, grouped", lambda: sdpa(_grouped(case, data.q))


class OnnxRuntime:
    package = "onnxruntime"
    INPUTS = {"Attention": ("query", "key", "value"), "MultiHeadAttention": ("query", "key", "value")}

    def __init__(self, threads: int):
        import onnx
        import onnxruntime
        self.onnx, self.ort, self.threads = onnx, onnxruntime, threads
        self.name = f"ONNX Runtime {onnxruntime.__version__}"

    def bind(self, op: str, sets: list[dict[str, np.ndarray]], **attributes: Any) -> Callable[[int], None]:
        """call(set) of a model of one node, on the memory of these arrays."""
        helper, kind = self.onnx.helper, {"float32": self.onnx.TensorProto.FLOAT, "float16": self.onnx.TensorProto.FLOAT16}

        def infos(names):
            return [helper.make_tensor_value_info(n, kind[sets[0][n].dtype.name], sets[0][n].shape) for n in names]
        inputs, outputs = self.INPUTS[op], ("output",)
        node = helper.make_node(op, inputs, outputs, domain="" if op == "Attention" else "com.microsoft", **attributes)
        model = helper.make_model(helper.make_graph([node], op, infos(inputs), infos(outputs)), ir_version=10,
                                  opset_imports=[helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)])
        options = self.ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = self.threads, 1, 4
        session = self.ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        bindings = []
        for arrays in sets:
            bindings.append(session.io_binding())
            for names, bind in (inputs, bindings[-1].bind_input), (outputs, bindings[-1].bind_output):
                for name in names:
                    bind(name, "cpu", 0, arrays[name].dtype, arrays[name].shape, arrays[name].ctypes.data)
        return lambda i, keep=sets: session.run_with_iobinding(bindings[i])  # A binding holds addresses only.

    def ways(self, case: Case, data: Data) -> Iterator[Way]:
        if case.dtype == "bf16":
            raise NotImplementedError("has no attention in bf16 on CPUs")
        if case.causal and case.q_len not in (1, case.kv_len):
            raise NotImplementedError("aligns causality to the top left")
        causal = int(case.causal and case.q_len > 1)

        def attention():
            out = np.empty_like(data.q)
            sets = [{"query": data.q, "key": k, "value": v, "output": out} for k, v in data.sets]
            return self.bind("Attention", sets, is_causal=causal, scale=case.scale), lambda: out
        yield "Attention", attention

        def multi_head():  # Takes [batch, length, heads * dim] for the queries.
            rows = _grouped(case, data.q) if case.q_len == 1 else data.q
            flat = np.ascontiguousarray(rows.swapaxes(1, 2)).reshape(case.batch, rows.shape[2], -1)
            out = np.empty_like(flat)
            sets = [{"query": flat, "key": k, "value": v, "output": out} for k, v in data.sets]
            call = self.bind("MultiHeadAttention", sets, num_heads=case.kv_heads, unidirectional=causal, scale=case.scale)
            return call, lambda: out.reshape(case.batch, rows.shape[2], case.kv_heads, -1).swapaxes(1, 2).reshape(data.q.shape)
        if case.dtype == "f32" and (case.group == 1 or case.q_len == 1):
            yield "MultiHeadAttention", multi_head


class OpenVino:
    package = "openvino"

    def __init__(self, threads: int):
        import openvino
        from openvino import opset13
        self.ov, self.ops, self.core, self.threads = openvino, opset13, openvino.Core(), threads
        self.name = f"OpenVINO {openvino.__version__.split('-')[0]}"

    def ways(self, case: Case, data: Data) -> Iterator[Way]:
        if case.causal and case.q_len not in (1, case.kv_len):
            raise NotImplementedError("aligns causality to the top left")
        if case.group > 1 and case.q_len > 1:
            raise NotImplementedError("has no grouped queries in prefill")
        ov, kind = self.ov, getattr(self.ov.Type, case.dtype)
        q = _grouped(case, data.q) if case.q_len == 1 else data.q
        dtype = np.uint16 if case.dtype == "bf16" else data.q.dtype

        def sdpa(hint):
            def tensor(array):
                return ov.Tensor(array.view(dtype), list(array.shape), kind)
            inputs = [self.ops.parameter(list(x.shape), kind) for x in (q, *data.sets[0])]
            node = self.ops.scaled_dot_product_attention(*inputs, causal=case.causal and case.q_len > 1)
            model = self.core.compile_model(ov.Model([node], inputs), "CPU", {
                "INFERENCE_NUM_THREADS": self.threads, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False, "INFERENCE_PRECISION_HINT": hint,
                "PERFORMANCE_HINT": "LATENCY"})
            out, requests = np.empty(q.shape, dtype), []
            for kv in data.sets:
                requests.append(model.create_infer_request())
                for at, array in enumerate((q, *kv)):
                    requests[-1].set_input_tensor(at, tensor(array))
                requests[-1].set_output_tensor(0, tensor(out))
            answer = out.view(data.q.dtype).reshape(data.q.shape)
            return lambda i, keep=(q, answer): requests[i].infer(), lambda: answer  # A request holds addresses only.
        for hint in {kind: "", ov.Type.f32: "f32"} if case.dtype != "f32" else (kind,):
            yield f"SDPA, computes in {hint.get_type_name()}", lambda hint=hint: sdpa(hint)


PEERS = (PyTorch, OnnxRuntime, OpenVino)
