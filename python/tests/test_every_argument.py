# SPDX-License-Identifier: Apache-2.0
"""Every argument of every call counts, and a plan or a stream makes of it what the one call does."""

import inspect

import numpy as np
import pytest

import kumiko

RANDOM = np.random.default_rng(7)
Q, K, V = (RANDOM.standard_normal((2, heads, 9 if heads == 4 else 40, 16), dtype=np.float32) for heads in (4, 2, 2))
PACKED = [Q[:1], K[:1], V[:1]]
PAGES = [Q, *RANDOM.standard_normal((2, 6, 2, 16, 16), dtype=np.float32)]
INT8 = [*(RANDOM.integers(-99, 99, x.shape).astype(np.int8) for x in (Q, K)), V]
HALF = [x.astype(np.float16) for x in (Q, K, V)]
SLOPES, SINKS = np.array([0.5, 0.1, 0.2, 0.4], np.float32), np.array([1, -1, 0.5, 2], np.float32)
BIAS, MASK = RANDOM.standard_normal((2, 4, 9, 40), dtype=np.float32), RANDOM.random((2, 1, 9, 40)) < 0.7
SCALES = [0.01 + RANDOM.random(x.shape[:3], dtype=np.float32) / 100 for x in (Q, K)]
TREE = np.packbits(np.tril(np.ones((9, 9), bool)) & (RANDOM.random((2, 9, 9)) < 0.8), axis=-1, bitorder="little").reshape(18, 2)
LISTS = {"bsr_indptr": np.array([0, 2, 3, 5, 6, 7, 9], np.int32), "bsr_indices": np.array([0, 4, 2, 1, 3, 0, 4, 1, 2], np.int32),
         "bsr_rows": 3, "bsr_keys": 8}
ROWS = [{"seqused_k": [60, 30], "block_table": np.array([[5, 0, 2, 1], [3, 4, 1, 0]], np.int32)},
        {"seqused_k": [60, 30], "block_table": np.array([5, 0, 2, 1, 3, 4], np.int32), "kv_indptr": [0, 4, 6]}]
ALL_PACKED = {"cu_seqlens_q": [0, 4, 9], "cu_seqlens_k": [0, 11, 40]}

# Of each argument a call that has it: without it the call has another outcome, a result or an error.
ATTENTION = {
    "causal": ([Q, K, V], {"causal": True}),
    "causal_alignment": ([Q, K, V], {"causal": True, "causal_alignment": "top_left"}),
    "window": ([Q, K, V], {"window": (3, 2)}),
    "scale": ([Q, K, V], {"scale": 0.7}),
    "softcap": ([Q, K, V], {"softcap": 0.5}),
    "alibi_slopes": ([Q, K, V], {"alibi_slopes": SLOPES}),
    "bias": ([Q, K, V], {"bias": BIAS}),
    "mask": ([Q, K, V], {"mask": MASK}),
    "tree_mask": ([Q, K, V], {"tree_mask": TREE}),
    "bsr_indptr": ([Q, K, V], LISTS),
    "bsr_indices": ([Q, K, V], LISTS),
    "bsr_rows": ([Q, K, V], LISTS),
    "bsr_keys": ([Q, K, V], LISTS),
    "sinks": ([Q, K, V], {"sinks": SINKS}),
    "lse_with_sink": ([Q, K, V], {"sinks": SINKS, "lse_with_sink": False, "return_lse": True}),
    "lse_base": ([Q, K, V], {"lse_base": "two", "return_lse": True}),
    "window_sink_tokens": ([Q, K, V], {"window": (2, 0), "window_sink_tokens": 3}),
    "causal_sequences": ([Q, K, V], {"causal_sequences": [True, False]}),
    "prefix_lens": ([Q, K, V], {"causal": True, "prefix_lens": [0, 38]}),
    "seqused_k": ([Q, K, V], {"seqused_k": [30, 7]}),
    "cu_seqlens_q": (PACKED, ALL_PACKED),
    "cu_seqlens_k": (PACKED, ALL_PACKED),
    "block_table": (PAGES, ROWS[0]),
    "kv_indptr": (PAGES, ROWS[1]),
    "max_pages": (PAGES, {**ROWS[1], "max_pages": 5, "bias": RANDOM.standard_normal((2, 1, 9, 80), dtype=np.float32)}),
    "q_scale": (INT8, {"q_scale": SCALES[0], "k_scale": SCALES[1]}),
    "k_scale": (INT8, {"q_scale": SCALES[0], "k_scale": SCALES[1]}),
    "pipeline": ([Q, K, V], {"pipeline": "fastest"}),
    "precision": ([Q, K, V], {"precision": "int8"}),
    "kv_domains": ([Q, K, V], {"kv_domains": [0, 0, 0, 10**6]}),
    "key_layout": ([Q, K, V], {"key_layout": "tiles_of_16"}),
    "return_lse": ([Q, K, V], {"return_lse": True}),
    "lse": ([Q, K, V], {"lse": np.zeros((2, 4, 9), np.float32)}),
    "return_row_max": ([Q, K, V], {"return_row_max": True}),
    "row_max": ([Q, K, V], {"return_lse": True, "row_max": np.zeros((2, 4, 9), np.float32)}),
    "layout": ([x.transpose(0, 2, 1, 3) for x in (Q, K, V)], {"layout": "bshd"}),
    "out": (HALF, {"out": np.zeros(Q.shape, np.float32)}),
}


def keywords(function):
    return [name for name, parameter in inspect.signature(function).parameters.items() if parameter.kind is parameter.KEYWORD_ONLY]


def outcome(call):
    """Types and bytes of what a call returns, or its error."""
    try:
        found = call()
    except (ValueError, TypeError, NotImplementedError) as error:
        return type(error), str(error)
    return [None if x is None else (x.dtype, x.shape, x.tobytes()) for x in (found if isinstance(found, tuple) else (found,))]


def of(function, options):
    return {name: value for name, value in options.items() if name in keywords(function)}


def by_plan(tensors, options):
    return kumiko.Plan(*tensors, **of(kumiko.Plan, options)).run(*tensors, **of(kumiko.Plan.run, options))


def by_stream(tensors, options):
    with kumiko.Stream() as stream:
        return stream.attention(*tensors, **options).wait()


def by_submitted_plan(tensors, options):
    plan = kumiko.Plan(*tensors, **of(kumiko.Plan, options))
    with kumiko.Stream() as stream:
        return stream.submit(plan, *tensors, **of(kumiko.Stream.submit, options)).wait()


def test_no_argument_of_attention_is_missing():
    assert set(ATTENTION) == set(keywords(kumiko.attention)) - {"context"}
    assert set(keywords(kumiko.Stream.attention)) == set(ATTENTION) | {"callback"}
    assert set(keywords(kumiko.Plan)) | set(keywords(kumiko.Plan.run)) == set(ATTENTION) | {"context"}
    assert set(keywords(kumiko.Stream.submit)) == set(keywords(kumiko.Plan.run)) | {"callback"}


@pytest.mark.parametrize("name", ATTENTION)
def test_arguments_of_attention(name):
    tensors, options = ATTENTION[name]
    wanted = outcome(lambda: kumiko.attention(*tensors, **options))
    without = {other: value for other, value in options.items() if other != name}
    assert wanted != outcome(lambda: kumiko.attention(*tensors, **without))
    for way in (by_plan, by_stream, by_submitted_plan):
        assert outcome(lambda way=way: way(tensors, options)) == wanted, way.__name__


ROW_VALUES = {name: RANDOM.standard_normal((2, 4, 9), dtype=np.float32) for name in ("dlse", "delta")}
GRADIENTS = {
    **{name: ATTENTION[name] for name in keywords(kumiko.attention_backward) if name in ATTENTION and name not in ("layout", "precision")},
    "precision": ([Q, K, V], {"precision": "half"}),
    **{name: ([Q, K, V], {name: value}) for name, value in ROW_VALUES.items()},
    "return_dbias": ([Q, K, V], {"bias": BIAS, "return_dbias": True}),
    "return_dalibi_slopes": ([Q, K, V], {"alibi_slopes": SLOPES, "return_dalibi_slopes": True}),
    **{name: (HALF, {name: np.zeros(shape, np.float32)}) for name, shape in (("dq", Q.shape), ("dk", K.shape), ("dv", V.shape))},
    "dbias": (HALF, {"bias": BIAS.astype(np.float16), "dbias": np.zeros(BIAS.shape, np.float32)}),
    "dalibi_slopes": ([Q, K, V], {"alibi_slopes": SLOPES, "dalibi_slopes": np.zeros(4, np.float32)}),
    "dsinks": ([Q, K, V], {"sinks": SINKS, "dsinks": np.zeros(3, np.float32)}),  # refused
    "layout": ([x.transpose(0, 2, 1, 3) for x in (Q, K, V)], {"layout": "bshd"}),
}


def gradients_by_plan(tensors, options):
    wants_slopes = "dalibi_slopes" in options or options.get("return_dalibi_slopes", False)
    planned = {**of(kumiko.BackwardPlan, options), "return_dalibi_slopes": wants_slopes}
    dout, q, k, v, out, lse = tensors
    return kumiko.BackwardPlan(dout, q, k, v, out, **planned).run(*tensors, **of(kumiko.BackwardPlan.run, options))


def test_no_argument_of_gradients_is_missing():
    assert set(GRADIENTS) == set(keywords(kumiko.attention_backward)) - {"context"}
    assert set(keywords(kumiko.BackwardPlan)) | set(keywords(kumiko.BackwardPlan.run)) == set(GRADIENTS) | {"context"}


@pytest.mark.parametrize("name", GRADIENTS)
def test_arguments_of_gradients(name):
    """Of one forward call, whose outputs are the same with the argument and without."""
    tensors, options = GRADIENTS[name]
    forward = {**of(kumiko.attention, options), "precision": "automatic", "return_lse": True}
    out, lse = kumiko.attention(*tensors, **forward)
    given = [RANDOM.standard_normal(out.shape).astype(out.dtype), *tensors, out, lse]
    wanted = outcome(lambda: kumiko.attention_backward(*given, **of(kumiko.attention_backward, options)))
    without = {other: value for other, value in of(kumiko.attention_backward, options).items() if other != name}
    assert wanted != outcome(lambda: kumiko.attention_backward(*given, **without))
    assert outcome(lambda: gradients_by_plan(given, options)) == wanted


TOKENS = [RANDOM.standard_normal((7, heads, 16), dtype=np.float32) for heads in (2, 2, 4)]  # keys, values, queries
SLOTS, TABLE = [9, 2, -1, 3, 0, 11, 4], RANDOM.standard_normal((30, 12), dtype=np.float32)
ROTATED = {"query": TOKENS[2], "positions": [0, 5, 2, 3, 29, 1, 7]}
APPEND = {
    "query": {"query": TOKENS[2]},
    "query_out": {"query": TOKENS[2], "query_out": np.zeros((7, 4, 16), np.float16)},
    "positions": {"positions": [0, 5, 2, 3, 29, 1, 7]},
    "rotary_dim": {**ROTATED, "rotary_dim": 6},
    "interleaved": {**ROTATED, "interleaved": True},
    "cos_sin": {**ROTATED, "cos_sin": TABLE},
    "rope_theta": {**ROTATED, "rope_theta": 100.0},
    "rope_scale": {**ROTATED, "rope_scale": 0.5},
    "key_norm": {"key_norm": TABLE[0, :].repeat(2)[:16].copy()},
    "query_norm": {"query": TOKENS[2], "query_norm": TABLE[1, :].repeat(2)[:16].copy()},
    "norm_eps": {"key_norm": TABLE[0, :].repeat(2)[:16].copy(), "norm_eps": 0.5},
    "layout": {"layout": "bhsd"},
    "key_layout": {"key_layout": "tiles_of_16"},
    "page_domains": {"page_domains": [10**6] * 4},
}


def appended(call, options):
    """The result and both caches, which fit either layout."""
    caches = [np.full((4, 4, 4, 16), 7, np.float32)[:, :, :2], np.full((4, 4, 4, 16), 7, np.float32)[:, :, :2]]
    if options.get("layout") == "bhsd":
        caches = [np.full((4, 2, 4, 16), 7, np.float32) for _ in range(2)]
    return call(TOKENS[0], TOKENS[1], *caches, SLOTS, **options), *caches


def by_appending_stream(*arguments, **options):
    with kumiko.Stream() as stream:
        return stream.kv_append(*arguments, **options).wait()


def test_no_argument_of_kv_append_is_missing():
    assert set(APPEND) == set(keywords(kumiko.kv_append)) - {"context"}
    assert set(keywords(kumiko.Stream.kv_append)) == set(APPEND) | {"callback"}


@pytest.mark.parametrize("name", APPEND)
def test_arguments_of_kv_append(name):
    wanted = outcome(lambda: appended(kumiko.kv_append, APPEND[name]))
    without = {other: value for other, value in APPEND[name].items() if other != name}
    assert wanted != outcome(lambda: appended(kumiko.kv_append, without))
    assert outcome(lambda: appended(by_appending_stream, APPEND[name])) == wanted


WITH_CONTEXT = {
    "attention": ((Q, K, V), {}),
    "attention_backward": ((Q, Q, K, V, Q, Q[..., 0]), {}),
    "attention_with_kvcache": ((Q, Q, Q), {}),
    "fused_gemm": ((Q, K, V), {}),
    "kv_append": ((TOKENS[0], TOKENS[1], *(np.zeros((4, 4, 2, 16), np.float32) for _ in range(2)), SLOTS), {}),
    "merge_states": (([(Q, Q[..., 0].copy())],), {}),
    "pack_key_pages": ((PAGES[1], PAGES[1].copy()), {"layout": "bhsd"}),
    "quantize_rows": ((Q,), {}),
    "softmax_pv": ((BIAS, V), {}),
    "unpack_key_pages": ((PAGES[1], PAGES[1].copy()), {"layout": "bhsd"}),
    "varlen_attention": ((Q[0], Q[0], Q[0], [0, 4], [0, 4]), {}),
    "BackwardPlan": ((Q, Q, K, V, Q), {}),
    "Plan": ((Q, K, V), {}),
    "Stream": ((), {}),
}


def test_a_context_reaches_every_call():
    public = {name: getattr(kumiko, name) for name in kumiko.__all__}
    ours = {name: call for name, call in public.items() if inspect.isfunction(call) or inspect.isclass(call) and call.__module__ != "kumiko._core"}
    assert {name for name, call in ours.items() if "context" in inspect.signature(call).parameters} == WITH_CONTEXT.keys()
    for name, (arguments, options) in WITH_CONTEXT.items():
        with pytest.raises(TypeError, match=r"context is 3 \(int\); expected a kumiko.Context or None"):
            getattr(kumiko, name)(*arguments, context=3, **options)
