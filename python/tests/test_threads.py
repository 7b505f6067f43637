# SPDX-License-Identifier: Apache-2.0
"""Calls from many threads of Python, and in forked children."""

import multiprocessing
import sys
import threading
import time

import numpy as np
import pytest
from test_context import script

import kumiko

FORK = multiprocessing.get_context("fork")
# A child only calls kumiko and ends: that it lacks the parent's other threads is what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def all_calls(q, k, v, context=None):
    """The bytes of one result of each kind."""
    scores = np.asarray(q @ k.swapaxes(-1, -2), np.float32)
    state = kumiko.attention(q, k, v, causal=True, return_lse=True, context=context)
    found = [*state, kumiko.softmax_pv(scores, v, context=context), kumiko.fused_gemm(q, k, v, context=context),
             *kumiko.merge_states([state, state], context=context), kumiko.Plan(q, k, v, context=context).run(q, k, v)]
    if context is None:
        found.append(kumiko.scaled_dot_product_attention(q, k, v, is_causal=True))
    return [x.tobytes() for x in found]


@pytest.mark.parametrize("executor", ["openmp", "tbb", "serial"])
def test_threads_get_the_bits_of_one(random, executor):
    problems = [[random.standard_normal((2, 3, 33 + n, 32)).astype(np.float32) for _ in range(3)] for n in range(8)]
    context = kumiko.Context(executor=executor)
    expected = [all_calls(*problem, context) for problem in problems]
    found, start = [[] for _ in problems], threading.Barrier(len(problems))

    def work(n):
        start.wait()
        found[n] = [all_calls(*problems[n], context) for _ in range(10)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(problems))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[wanted] * 10 for wanted in expected]


def test_the_first_calls_of_many_threads_share_one_context():
    text = """if True:
        import threading, kumiko
        start, seen = threading.Barrier(8), []
        def work():
            start.wait()
            seen.append(kumiko.default_context())
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(len(seen), all(context == seen[0] for context in seen))"""
    assert script(text) == "8 True"


def test_other_threads_run_during_a_call(random):
    """They see results of the first heads before those of the last one exist, which needs the GIL meanwhile."""
    context = kumiko.Context(num_threads=1, executor="serial")
    q, k, v = (random.standard_normal((1, 64, 512, 64)).astype(np.float32) for _ in range(3))
    out = np.full(q.shape, np.nan, np.float32)
    seen = set()
    thread = threading.Thread(target=lambda: kumiko.attention(q, k, v, out=out, context=context))
    thread.start()
    while thread.is_alive():
        seen.add(int(np.isnan(out[0, :, 0, 0]).sum()))
    thread.join()
    assert not np.isnan(out).any()
    assert seen - {0, 64}, "no state between none and all heads was seen"


@pytest.mark.parametrize("make", [
    lambda x, out: kumiko.Plan(x, x, x, out=out), lambda x, out: kumiko.BackwardPlan(out, x, x, x, out, dq=out, dk=out, dv=out),
], ids=["Plan", "BackwardPlan"])  # fmt: skip
def test_other_threads_run_while_a_plan_is_made(make):
    """Who waits for the GIL has it before a plan of many tasks is ready, though Python itself takes it from nobody."""
    x = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (60000, 8, 1, 8), (0, 0, 0, 4))
    out = np.empty(x.shape, np.float32)
    kumiko.default_context()
    ready, go, seen = threading.Event(), threading.Lock(), []

    def watch():
        ready.set()
        with go:
            seen.append(1)

    thread = threading.Thread(target=watch)
    interval = sys.getswitchinterval()
    go.acquire()
    thread.start()
    ready.wait()
    time.sleep(0.05)
    sys.setswitchinterval(1000)
    try:
        go.release()
        make(x, out)
        has_seen = len(seen)
    finally:
        sys.setswitchinterval(interval)
    thread.join()
    assert has_seen == 1


def test_the_process_may_end_during_calls_of_daemon_threads():
    text = """if True:
        import threading, numpy, kumiko
        x, started = numpy.ones((1, 8, 256, 64), numpy.float32), threading.Semaphore(0)
        plan = kumiko.Plan(x, x, x)
        def call():
            while True:
                kumiko.attention(x, x, x)
                plan.run(x, x, x)
                plan.explain()
                started.release()
        for _ in range(4): threading.Thread(target=call, daemon=True).start()
        for _ in range(4): started.acquire()
        print("end")"""
    assert [script(text) for _ in range(3)] == ["end"] * 3


def in_child(work):
    """What `work` returns, or the error it raises, in a forked child."""
    receiver, sender = FORK.Pipe(duplex=False)

    def run():
        try:
            sender.send(work())
        except Exception as error:
            sender.send(error)

    child = FORK.Process(target=run)
    child.start()
    assert receiver.poll(60), "the child did not answer"
    said = receiver.recv()
    child.join(60)
    assert child.exitcode == 0
    return said


def test_a_forked_child_makes_a_default_context_of_its_own(tensors):
    problem = tensors((2, 3, 200, 32), kv_heads=3, kv_len=200)
    expected = all_calls(*problem)
    for _ in range(3):
        assert in_child(lambda: all_calls(*problem)) == expected
    assert all_calls(*problem) == expected
    assert in_child(lambda: in_child(lambda: all_calls(*problem))) == expected


def test_workers_that_are_forked_at_once(tensors):
    """As a web server does that loads the application before it forks."""
    problem = tensors((2, 3, 200, 32), kv_heads=3, kv_len=200)
    expected = all_calls(*problem)
    with FORK.Pool(3) as pool:
        assert pool.starmap(all_calls, [problem] * 6) == [expected] * 6


def test_a_context_of_the_parent_is_refused_in_a_child(tensors):
    problem = tensors()
    context, default = kumiko.Context(), kumiko.default_context()
    plan = kumiko.Plan(*problem, seqused_k=[3, 4], context=context)
    expected = kumiko.attention(*problem, seqused_k=[3, 4], context=context)
    out, lse = kumiko.attention(*problem, return_lse=True)
    gradients = kumiko.BackwardPlan(out, *problem, out, context=context)
    for work in (lambda: kumiko.attention(*problem, context=context), lambda: kumiko.attention(*problem, context=default), lambda: plan.run(*problem),
                 lambda: plan.update([1, 2]), lambda: context.allocate(0, 8), lambda: kumiko.Plan(*problem, context=context),
                 lambda: gradients.run(out, *problem, out, lse), lambda: kumiko.attention_backward(out, *problem, out, lse, context=context)):
        error = in_child(work)
        assert isinstance(error, NotImplementedError) and "fork" in str(error)
    assert in_child(lambda: "\n" in plan.explain() and plan.workspace_bytes > 0) is True
    assert np.array_equal(plan.run(*problem), expected)


def test_a_child_of_a_process_in_the_middle_of_runs(tensors):
    problem = tensors((1, 4, 300, 32), kv_len=300)
    plan, stop, expected = kumiko.Plan(*problem), threading.Event(), kumiko.attention(*problem)

    def keep_running():
        while not stop.is_set():
            plan.run(*problem)

    threads = [threading.Thread(target=keep_running) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(8):
            assert isinstance(in_child(lambda: plan.run(*problem)), NotImplementedError)
            assert np.array_equal(in_child(lambda: kumiko.attention(*problem)), expected)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
