# SPDX-License-Identifier: Apache-2.0
"""Plans: the results of one call, whatever runs, updates and threads."""

import threading

import numpy as np
import pytest

import kumiko


def test_runs_give_the_bits_of_one_call(tensors, dtype):
    options = {"causal": True, "window": (9, None), "softcap": 2.0, "scale": 0.4}
    plan = kumiko.Plan(*tensors(dtype=dtype), **options)
    for _ in range(3):
        q, k, v = tensors(dtype=dtype)
        out, lse = plan.run(q, k, v, return_lse=True)
        expected = kumiko.attention(q, k, v, return_lse=True, **options)
        assert out.dtype == dtype and np.array_equal(out, expected[0]) and np.array_equal(lse, expected[1])
        assert np.array_equal(plan.run(q, k, v), out)


def test_terms_come_with_each_run(tensors, random):
    q, k, v = tensors()
    mask, bias = random.random((9, 37)) < 0.6, random.standard_normal((4, 1, 37)).astype(np.float32)
    slopes = random.random(4).astype(np.float32)
    plan = kumiko.Plan(q, k, v, mask=np.ones_like(mask), bias=np.zeros_like(bias), alibi_slopes=np.zeros_like(slopes))
    terms = {"mask": mask, "bias": bias, "alibi_slopes": slopes}
    assert np.array_equal(plan.run(q, k, v, **terms), kumiko.attention(q, k, v, **terms))
    with pytest.raises(ValueError, match="alibi_slopes is None; expected given"):
        plan.run(q, k, v, mask=mask, bias=bias)
    with pytest.raises(ValueError, match=r"mask.*expected the planned"):
        plan.run(q, k, v, bias=bias, alibi_slopes=slopes)


def test_a_plan_keeps_causality_and_prefixes_of_sequences(tensors):
    q, k, v = tensors()
    options = {"causal_sequences": [True, False], "prefix_lens": [12, 0]}
    plan = kumiko.Plan(q, k, v, **options)
    assert np.array_equal(plan.run(q, k, v), kumiko.attention(q, k, v, **options))
    assert ", causal in 1 sequences, prefixes" in plan.explain()


def test_sinks_come_with_each_run(tensors):
    q, k, v = tensors()
    options = {"lse_with_sink": False, "lse_base": "two"}
    plan = kumiko.Plan(q, k, v, sinks=np.zeros(4, np.float32), **options)
    sinks = np.array([1, 2, 3, -1], np.float32)
    for got, expected in zip(plan.run(q, k, v, sinks=sinks, return_lse=True),
                             kumiko.attention(q, k, v, sinks=sinks, return_lse=True, **options)):
        assert np.array_equal(got, expected)
    assert ", sinks" in plan.explain()
    with pytest.raises(ValueError, match="sinks is None; expected given, as planned"):
        plan.run(q, k, v)


@pytest.mark.parametrize("layout, axes", [("bhsd", (0, 1, 2, 3)), ("bshd", (0, 2, 1, 3))])
def test_out_of_both_layouts(tensors, layout, axes):
    q, k, v = (np.ascontiguousarray(x.transpose(axes)) for x in tensors())
    plan, out = kumiko.Plan(q, k, v, layout=layout), np.empty_like(q)
    assert plan.run(q, k, v, out=out) is out
    assert np.array_equal(out, kumiko.attention(q, k, v, layout=layout)) and np.array_equal(plan.run(q, k, v), out)


def test_a_planned_out_of_its_own(tensors):
    q, k, v = tensors(dtype=np.float16)
    out = np.zeros((2, 4, 9, 40), np.float32)[..., :32]
    plan = kumiko.Plan(q, k, v, out=out)
    assert np.all(out == 0)
    plan.run(q, k, v, out=out)
    assert np.array_equal(out.astype(np.float16), kumiko.attention(q, k, v))
    with pytest.raises(ValueError, match="out.dtype is float16; expected the planned float32"):
        plan.run(q, k, v)


def test_update_changes_the_lengths_of_later_runs(tensors):
    q, k, v = tensors(kv_len=1100)
    plan = kumiko.Plan(q, k, v, causal=True, seqused_k=[20, 30])
    for lengths in ([20, 30], (21, 31), np.array([1100, 513]), np.array([0, 9], np.int32)):
        plan.update(lengths)
        assert np.array_equal(plan.run(q, k, v), kumiko.attention(q, k, v, causal=True, seqused_k=lengths))


@pytest.mark.parametrize("lengths, error, words", [
    ([1, 2, 3], ValueError, "seqused_k is 3 integers; expected 2"), ([1, 38], ValueError, r"seqused_k\[1\] is 38; expected 0..37"),
    ([1, 2**40], ValueError, r"seqused_k\[1\] is 1099511627776; expected an int32"), (["a", 2], TypeError, "seqused_k is 'a'"),
    (np.zeros(2, np.float32), ValueError, "seqused_k.dtype is float32; expected int32 or int64"), (None, ValueError, "seqused_k"),
])
def test_a_refused_update_changes_nothing(tensors, lengths, error, words):
    q, k, v = tensors()
    plan = kumiko.Plan(q, k, v, seqused_k=[20, 30])
    with pytest.raises(error, match=words):
        plan.update(lengths)
    assert np.array_equal(plan.run(q, k, v), kumiko.attention(q, k, v, seqused_k=[20, 30]))


def test_sequences_share_pages_as_the_tables_of_plan_and_update_say(random):
    q = random.standard_normal((3, 4, 1, 16), dtype=np.float32)
    k, v = (random.standard_normal((40, 2, 64, 16), dtype=np.float32) for _ in range(2))
    lengths = [700, 650, 690]
    together, apart = (np.arange(33, dtype=np.int32).reshape(3, 11) for _ in range(2))
    together[:, :8] = together[0, :8]
    plan = kumiko.Plan(q, k, v, seqused_k=lengths, block_table=together)
    assert "shared prefixes: 1 groups" in plan.explain()
    for table in (together, apart, together):
        plan.update(lengths, table)
        assert ("shared prefixes" in plan.explain()) == (table is together)
        assert np.array_equal(plan.run(q, k, v, block_table=table), kumiko.attention(q, k, v, seqused_k=lengths, block_table=table))
    with pytest.raises(ValueError, match=r"block_table\[1, 0\] is 11; expected 0 as in sequence 0"):
        plan.run(q, k, v, block_table=apart)
    for wrong, words in ((apart[:2], r"block_table.shape\[0\] is 2"), (apart[:, :10], r"block_table.shape\[1\] is 10; expected the planned 11"),
                         (np.zeros((3, 12), np.int32)[:, :11], r"block_table.stride\[0\] is 12; expected the planned 11"),
                         (apart.astype(np.int64), "block_table.dtype is int64; expected int32")):
        with pytest.raises(ValueError, match=words):
            plan.update(lengths, wrong)
    dense = kumiko.Plan(q, k[:3], v[:3], seqused_k=[60, 60, 60])
    with pytest.raises(ValueError, match="block_table is given; expected None"):
        dense.update([1, 2, 3], apart)


def test_a_plan_without_lengths_has_none_to_update(tensors):
    with pytest.raises(ValueError, match="plan was made without seqused_k"):
        kumiko.Plan(*tensors()).update([1, 2])


def test_another_problem_is_refused(tensors):
    plan = kumiko.Plan(*tensors())
    with pytest.raises(ValueError, match=r"q.shape\[0\] \(batch\) is 1; expected the planned 2"):
        plan.run(*tensors((1, 4, 9, 32)))
    with pytest.raises(ValueError, match=r"k.stride\[0\] \(batch\) is 2432; expected the planned 2368"):
        plan.run(*tensors(kv_len=38))
    with pytest.raises(ValueError, match="q.dtype is float16; expected the planned float32"):
        plan.run(*tensors(dtype=np.float16))
    with pytest.raises(ValueError, match="out.data is .*; expected memory apart from q"):
        q, k, v = tensors()
        plan.run(q, k, v, out=q)


def test_what_a_plan_says(tensors):
    plan = kumiko.Plan(*tensors((1, 4, 200, 32), kv_len=700), causal=True)
    assert "pipeline" in plan.explain() and plan.workspace_bytes > 0
    slow = plan.predict(core_flops=1e9, core_bandwidth=1e10, domain_bandwidth=1e10, start_seconds=1e-3)
    fast = plan.predict(core_flops=2e9, core_bandwidth=1e10, domain_bandwidth=1e10, start_seconds=1e-3)
    assert slow.seconds >= slow.attainable_seconds > fast.attainable_seconds > 0 and slow.seconds > 1e-3
    assert plan.predict(core_flops=0, core_bandwidth=0, domain_bandwidth=0) == (0, 0)
    assert slow.seconds > slow.attainable_seconds
    reading = {"core_flops": 1e30, "core_bandwidth": 1.0, "domain_bandwidth": 1e30}
    of_core, of_domain = plan.predict(**reading), plan.predict(**{**reading, "core_bandwidth": 1e30, "domain_bandwidth": 0.5})
    assert of_domain.seconds > of_core.seconds > 1


def test_runs_and_updates_from_many_threads(tensors):
    """A run sees the lengths of one update, never parts of two."""
    q, k, v = tensors(kv_len=600)
    plan = kumiko.Plan(q, k, v, seqused_k=[100, 100])
    possible = [kumiko.attention(q, k, v, seqused_k=[n, n]).tobytes() for n in (100, 600)]
    wrong = []

    def run():
        for _ in range(60):
            if plan.run(q, k, v).tobytes() not in possible:
                wrong.append(1)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for turn in range(60):
        plan.update([100, 100] if turn % 2 else [600, 600])
        plan.explain()
    for thread in threads:
        thread.join()
    assert not wrong
