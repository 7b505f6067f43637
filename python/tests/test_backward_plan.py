# SPDX-License-Identifier: Apache-2.0
"""Plans of gradients: the bits of one call of attention_backward, whatever runs and threads."""

import threading

import numpy as np
import pytest

import kumiko


@pytest.fixture
def problem(tensors, random):
    """problem(dtype=..., layout=..., **options): dout, q, k, v, out, lse of a call with these options."""
    def make(dtype=np.float32, layout="bhsd", axes=(0, 1, 2, 3), **options):
        q, k, v = (np.ascontiguousarray(x.transpose(axes)) for x in tensors(v_dim=40, dtype=dtype))
        out, lse = kumiko.attention(q, k, v, return_lse=True, layout=layout, **options)
        return random.standard_normal(out.shape).astype(dtype), q, k, v, out, lse
    return make


def check(found, expected):
    assert len(found) == len(expected)
    for x, y in zip(found, expected, strict=True):
        assert x.dtype == y.dtype and np.array_equal(x, y)


def test_runs_give_the_bits_of_one_call(problem, dtype):
    options = {"causal": True, "window": (9, None), "softcap": 2.0, "scale": 0.4}
    plan = kumiko.BackwardPlan(*problem(dtype, **options)[:5], **options)
    for _ in range(3):
        given = problem(dtype, **options)
        expected = kumiko.attention_backward(*given, **options)
        assert [x.dtype for x in expected] == [dtype] * 3
        check(plan.run(*given), expected)


def test_rows_values_come_with_each_run_or_not(problem, random):
    *given, lse = problem()
    plan = kumiko.BackwardPlan(*given)
    dlse = random.standard_normal(lse.shape).astype(np.float32)
    delta = random.standard_normal(lse.shape).astype(np.float32)
    strided = np.repeat(lse, 2, axis=2)[..., ::2]
    for rows in ({"dlse": dlse}, {}, {"delta": delta}, {"dlse": dlse, "delta": delta}):
        expected = kumiko.attention_backward(*given, lse, **rows)
        check(plan.run(*given, lse, **rows), expected)
        check(plan.run(*given, strided, **rows), expected)


@pytest.mark.parametrize("shape", [(2, 4, 9, 37), (4, 1, 37), (9, 37), (1, 37), (1, 1, 9, 1)])
def test_terms_come_with_each_run(problem, random, shape):
    def terms():
        return {"bias": random.standard_normal(shape).astype(np.float32), "mask": random.random((9, 37)) < 0.6,
                "alibi_slopes": random.random((2, 6)).astype(np.float32)[:, :4], "sinks": random.standard_normal(4).astype(np.float32)}
    first = terms()
    plan = kumiko.BackwardPlan(*problem(**first)[:5], return_dbias=True, return_dalibi_slopes=True, **first)
    for _ in range(2):
        given = terms()
        call = problem(**given)
        expected = kumiko.attention_backward(*call, return_dbias=True, return_dalibi_slopes=True, **given)
        found = plan.run(*call, **given)
        check(found, expected)
        assert [x.shape for x in found[3:]] == [(4,), shape, (2, 4)]


@pytest.mark.parametrize("layout, axes", [("bhsd", (0, 1, 2, 3)), ("bshd", (0, 2, 1, 3))])
def test_gradients_that_are_given_are_written(problem, random, layout, axes):
    terms = {"bias": random.standard_normal((9, 37)).astype(np.float16), "alibi_slopes": random.random(4).astype(np.float32),
             "sinks": random.standard_normal(4).astype(np.float32)}
    call = problem(np.float16, layout, axes, **terms)
    plan = kumiko.BackwardPlan(*call[:5], layout=layout, return_dbias=True, return_dalibi_slopes=True, **terms)
    expected = kumiko.attention_backward(*call, layout=layout, return_dbias=True, return_dalibi_slopes=True, **terms)
    names = ("dq", "dk", "dv", "dsinks", "dbias", "dalibi_slopes")
    given = {name: np.empty_like(x) for name, x in zip(names, expected, strict=True)}
    found = plan.run(*call, **terms, **given)
    assert all(x is given[name] for name, x in zip(names, found, strict=True))
    check(found, expected)
    for x in given.values():
        x.fill(7)
    assert all(x is y for x, y in zip(kumiko.attention_backward(*call, layout=layout, **terms, **given), found, strict=True))
    check(found, expected)


def test_planned_gradients_of_their_own_types_and_strides(problem, random):
    bias = random.standard_normal((9, 37)).astype(np.float16)
    call = problem(np.float16, bias=bias)
    dq, dbias = np.zeros((2, 4, 9, 64), np.float32)[..., :32], np.zeros((9, 37), np.float32)
    plan = kumiko.BackwardPlan(*call[:5], bias=bias, dq=dq, dbias=dbias)
    assert np.all(dq == 0) and np.all(dbias == 0)
    found = plan.run(*call, bias=bias, dq=dq, dbias=dbias)
    assert found[0] is dq and found[3] is dbias
    check([x.astype(np.float16) for x in found], kumiko.attention_backward(*call, bias=bias, return_dbias=True))
    with pytest.raises(ValueError, match="^dq.dtype is float16; expected the planned float32"):
        plan.run(*call, bias=bias)


def test_lengths_are_kept(random):
    q, k, v = (random.standard_normal((1, heads, 30, 16)).astype(np.float32) for heads in (4, 2, 2))
    options = {"cu_seqlens_q": [0, 7, 30], "cu_seqlens_k": [0, 11, 30], "seqused_k": [5, 19], "causal_sequences": [True, False], "prefix_lens": [2, 0]}
    out, lse = kumiko.attention(q, k, v, return_lse=True, **options)
    dout = random.standard_normal(out.shape).astype(np.float32)
    plan = kumiko.BackwardPlan(dout, q, k, v, out, **{name: list(x) for name, x in options.items()})
    for _ in range(2):
        check(plan.run(dout, q, k, v, out, lse), kumiko.attention_backward(dout, q, k, v, out, lse, **options))


def test_another_problem_is_refused(problem, random):
    call, bias = problem(), random.standard_normal((9, 37)).astype(np.float32)
    dout, q, k, v, out, lse = call
    plan = kumiko.BackwardPlan(*call[:5])
    with pytest.raises(ValueError, match=r"^q.shape\[0\] \(batch\) is 1; expected the planned 2"):
        plan.run(*(x[:1] for x in call))
    with pytest.raises(ValueError, match="^dout.dtype is float16; expected the planned float32"):
        plan.run(dout.astype(np.float16), q, k, v, out, lse)
    with pytest.raises(ValueError, match=r"^bias.*expected the planned"):
        plan.run(*call, bias=bias)
    with pytest.raises(ValueError, match="^dbias is wanted; expected not wanted, as bias is None"):
        plan.run(*call, dbias=bias)
    with pytest.raises(ValueError, match="^dsinks is given; expected None, as sinks is None"):
        plan.run(*call, dsinks=np.zeros(4, np.float32))
    with pytest.raises(TypeError, match="^lse is None"):
        plan.run(*call[:5], None)
    with pytest.raises(ValueError, match="^dq.data is .*; expected memory apart from q$"):
        plan.run(*call, dq=q)


def test_what_the_plan_does_not_have_is_refused(problem, random):
    bias, slopes = random.standard_normal((9, 37)).astype(np.float32), random.random(4).astype(np.float32)
    call = problem(bias=bias, alibi_slopes=slopes)
    with_all = kumiko.BackwardPlan(*call[:5], bias=bias, alibi_slopes=slopes, return_dbias=True, return_dalibi_slopes=True)
    with pytest.raises(ValueError, match="^bias.*expected the planned"):
        with_all.run(*call, alibi_slopes=slopes)
    with pytest.raises(ValueError, match="^alibi_slopes is None; expected given, as planned"):
        with_all.run(*call, bias=bias)
    without = kumiko.BackwardPlan(*call[:5], bias=bias, alibi_slopes=slopes)
    assert len(without.run(*call, bias=bias, alibi_slopes=slopes)) == 3
    with pytest.raises(ValueError, match="^dbias.*expected the planned"):
        without.run(*call, bias=bias, alibi_slopes=slopes, dbias=np.empty_like(bias))
    with pytest.raises(ValueError, match="^dalibi_slopes is given; expected None, as planned"):
        without.run(*call, bias=bias, alibi_slopes=slopes, dalibi_slopes=np.empty_like(slopes))
    with pytest.raises(ValueError, match="^dbias is wanted; expected not wanted, as bias is None"):
        kumiko.BackwardPlan(*call[:5], return_dbias=True)
    with pytest.raises(ValueError, match=r"^dout.shape\[2\] \(seq\) is 8; expected 9, as in out$"):
        kumiko.BackwardPlan(call[0][:, :, :8], *call[1:5])


def test_what_a_plan_says(problem, random):
    bias = random.standard_normal((9, 37)).astype(np.float32)
    call = problem(bias=bias)
    plan, wanting = (kumiko.BackwardPlan(*call[:5], bias=bias, return_dbias=wanted) for wanted in (False, True))
    assert "heads: 4, " in plan.explain() and f"workspace: {plan.workspace_bytes} bytes" in plan.explain()
    assert "dbias" not in plan.explain() and "dbias and dalibi_slopes: " in wanting.explain()
    assert wanting.workspace_bytes > plan.workspace_bytes > 0


def test_runs_from_many_threads(problem):
    calls = [problem(causal=True) for _ in range(4)]
    plan = kumiko.BackwardPlan(*calls[0][:5], causal=True)
    expected = [kumiko.attention_backward(*call, causal=True) for call in calls]
    wrong = []

    def run(n):
        for _ in range(40):
            wrong.extend(n for x, y in zip(plan.run(*calls[n]), expected[n], strict=True) if not np.array_equal(x, y))

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
