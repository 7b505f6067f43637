# SPDX-License-Identifier: Apache-2.0
"""Contexts: options, memory of domains, traces; the one that the process shares."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import kumiko


def script(text, **environment):
    """The output of a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", text], env={**os.environ, **environment}, text=True, capture_output=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_options_and_facts():
    context = kumiko.Context(num_threads=1, executor="serial", isa="reference", policy="flat", bind="none")
    assert (context.num_threads, context.isa, context.num_domains >= 1) == (1, "reference", True)
    assert "reference" in context.describe() and "serial" in context.describe()
    assert context == context and context != kumiko.Context(executor="serial") and context != 3


def test_every_option_arrives(tmp_path):
    fake = kumiko.Context(topology="numa:4 core:12 pu:1", num_threads=48)
    assert (fake.num_domains, fake.num_threads) == (4, 48)
    for option, words in (("cpus", "cpus is \"x\""), ("bind", "bind is \"x\""), ("executor", "executor is \"x\""), ("isa", "isa is \"x\""),
                          ("topology", "topology is \"x\""), ("policy", "policy is \"x\""), ("tuning", "tuning is \"x\"")):
        with pytest.raises((ValueError, NotImplementedError), match=words):
            kumiko.Context(**{option: "x"})
    with pytest.raises(ValueError, match="trace is .*none/file"):
        kumiko.Context(trace=tmp_path / "none" / "file")


@pytest.mark.parametrize("options, error, words", [
    ({"num_threads": 0}, ValueError, "num_threads is 0; expected 1 or more"), ({"num_threads": 10**6}, ValueError, "num_threads is \"1000000\""),
    ({"num_threads": "2"}, TypeError, r"num_threads is '2' \(str\)"), ({"cpus": 3}, TypeError, r"cpus is 3 \(int\); expected a string"),
    ({"trace": 3}, TypeError, r"trace is 3 \(int\); expected a path"),
])
def test_wrong_options(options, error, words):
    with pytest.raises(error, match=words):
        kumiko.Context(**options)


def test_calls_run_on_the_context_given(tensors):
    q, k, v = tensors()
    context = kumiko.Context(num_threads=1, executor="serial")
    expected = kumiko.attention(q, k, v)
    assert np.array_equal(kumiko.attention(q, k, v, context=context), expected)
    assert np.array_equal(kumiko.Plan(q, k, v, context=context).run(q, k, v), expected)
    with pytest.raises(TypeError, match=r"context is 3 \(int\)"):
        kumiko.attention(q, k, v, context=3)


def test_memory_of_a_domain(tensors):
    context = kumiko.Context()
    memory = context.allocate(0, 2 * 4 * 9 * 32 * 4)
    assert (memory.domain, memory.nbytes, len(memory), type(memory.is_placed)) == (0, 9216, 9216, bool)
    q, k, v = tensors()
    placed = np.frombuffer(memory, np.float32).reshape(q.shape)
    assert np.all(placed == 0) and placed.flags.writeable
    placed[:] = q
    same = np.from_dlpack(memory)
    assert same.dtype == np.uint8 and same.ctypes.data == placed.ctypes.data
    del memory, context
    assert np.array_equal(kumiko.attention(placed, k, v), kumiko.attention(q, k, v))
    assert np.array_equal(same.view(np.float32).reshape(q.shape), q)


@pytest.mark.parametrize("domain, nbytes, error, words", [
    (-2, 8, ValueError, "domain is -2; expected 0.."), (10**6, 8, ValueError, "domain is 1000000"), (2**40, 8, ValueError, "domain is 1099511627776"),
    (0, 0, ValueError, "bytes is 0; expected 1 or more"), (0, 2**60, MemoryError, "could not be allocated"), (0, "8", TypeError, "nbytes is '8'"),
])
def test_memory_that_is_not_there(domain, nbytes, error, words):
    with pytest.raises(error, match=words):
        kumiko.Context().allocate(domain, nbytes)


def test_trace(tensors, tmp_path):
    file = tmp_path / "trace.json"
    context = kumiko.Context(trace=file)
    kumiko.attention(*tensors(), context=context)
    context.write_trace()
    assert any(event.get("ph") == "X" for event in json.loads(file.read_text())["traceEvents"])
    with pytest.raises(ValueError, match="context has no trace"):
        kumiko.Context().write_trace()


def test_the_shared_context():
    assert kumiko.default_context() == kumiko.default_context()
    text = """if True:
        import kumiko, numpy
        own = kumiko.Context(num_threads=1, executor="serial")
        kumiko.set_default_context(own)
        x = numpy.ones((1, 1, 2, 8), numpy.float32)
        kumiko.attention(x, x, x)
        print(kumiko.default_context() == own, len(open("/proc/self/status").read().split("Threads:")[1].split()[0]))"""
    assert script(text) == "True 1"


def test_a_shared_context_that_is_replaced_ends():
    text = """if True:
        import kumiko, os, time
        def threads():  # those that end are listed for a moment after they have been joined
            seen, since = 0, time.monotonic()
            while time.monotonic() < since + 0.2:
                now = len(os.listdir("/proc/self/task"))
                if now != seen:
                    seen, since = now, time.monotonic()
                time.sleep(0.01)
            return seen
        counts = []
        for _ in range(4):
            kumiko.set_default_context(kumiko.Context(num_threads=2))
            counts.append(threads())
        print(len(set(counts[1:])))"""
    assert script(text, KUMIKO_EXECUTOR="tbb") == script(text) == "1"


def test_import_starts_no_thread_and_reads_no_variable():
    text = """if True:
        import pathlib, kumiko
        print(len(list(pathlib.Path("/proc/self/task").iterdir())))
        try:
            kumiko.default_context()
        except RuntimeError as error:
            print(error)"""
    threads, error = script(text, KUMIKO_NUM_THREADS="many").splitlines()
    assert threads == "1" and "KUMIKO_NUM_THREADS is \"many\"" in error


def test_import_needs_no_numpy():
    text = """if True:
        import sys, array, kumiko
        assert "numpy" not in sys.modules
        memory = memoryview(array.array("f", [1.0] * 16)).cast("B").cast("f", (1, 1, 2, 8))
        out = memoryview(kumiko.attention(memory, memory, memory))
        print("numpy" in sys.modules, out.shape, out.format, set(out.cast("B").cast("f")))"""
    assert script(text) == "False (1, 1, 2, 8) f {1.0}"


def test_the_version_is_the_projects():
    assert kumiko.__version__ in (pathlib.Path(__file__).parents[2] / "CMakeLists.txt").read_text()
