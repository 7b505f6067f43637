# SPDX-License-Identifier: Apache-2.0
"""Streams: results, order, fullness, cancelling, callbacks, and the end of streams and interpreters."""

import concurrent.futures
import gc
import queue
import sys
import threading
import weakref

import numpy as np
import pytest
from test_context import script
from test_threads import in_child

import kumiko

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
CancelledError = concurrent.futures.CancelledError


@pytest.fixture
def one():
    """A call that takes little time."""
    return [np.ones((1, 1, 1, 8), np.float32) for _ in range(3)]


class Gate:
    """Holds a stream in a callback, so that later calls wait for certain."""

    def __init__(self, stream, tensors):
        self.entered, self.opened = threading.Event(), threading.Event()
        self.ticket = stream.attention(*tensors, callback=self.hold)
        assert self.entered.wait(60)

    def hold(self, _):
        self.entered.set()
        assert self.opened.wait(60)

    def open(self):
        self.opened.set()


@pytest.mark.parametrize("executor", ["openmp", "tbb", "serial"])
def test_results_are_those_of_the_calls(tensors, dtype, executor):
    context = kumiko.Context(executor=executor)
    options = {"causal": True, "window": (9, None), "softcap": 2.0, "seqused_k": [30, 37]}
    q, k, v = tensors(dtype=dtype)
    expected, lse = kumiko.attention(q, k, v, return_lse=True, **options)
    plan, out = kumiko.Plan(q, k, v, context=context, **options), np.empty_like(q)
    with kumiko.Stream(context) as stream:
        tickets = [stream.submit(plan, q, k, v), stream.attention(q, k, v, **options), stream.submit(plan, q, k, v, out=out)]
        both = stream.submit(plan, q, k, v, return_lse=True), stream.attention(q, k, v, return_lse=True, **options)
        for ticket in tickets:
            assert ticket.wait().dtype == dtype and np.array_equal(ticket.wait(), expected)
        assert tickets[2].wait() is out
        for ticket in both:
            assert np.array_equal(ticket.wait()[0], expected) and np.array_equal(ticket.wait()[1], lse)
            assert ticket.done and not ticket.cancel()


def test_terms_and_layouts_arrive(tensors, random):
    q, k, v = (np.ascontiguousarray(x.transpose(0, 2, 1, 3)) for x in tensors())
    terms = {"mask": random.random((9, 37)) < 0.6, "bias": random.standard_normal((4, 1, 37)).astype(np.float32),
             "alibi_slopes": random.random(4).astype(np.float32), "sinks": random.standard_normal(4).astype(np.float32)}
    plan, stream = kumiko.Plan(q, k, v, layout="bshd", **terms), kumiko.Stream()
    expected = kumiko.attention(q, k, v, layout="bshd", **terms)
    assert np.array_equal(stream.submit(plan, q, k, v, **terms).wait(), expected)
    assert np.array_equal(stream.attention(q, k, v, layout="bshd", **terms).wait(), expected)
    settings = {"causal_sequences": [True, False], "prefix_lens": [3, 0], "scale": 0.3, "causal_alignment": "top_left", "lse_base": "two"}
    q, k, v = tensors()
    assert np.array_equal(stream.attention(q, k, v, **settings).wait(), kumiko.attention(q, k, v, **settings))


def test_a_call_reads_what_the_one_before_wrote(tensors):
    q, k, v = tensors((1, 2, 20, 16), kv_len=50)
    expected, middle, last = q, [np.empty_like(q) for _ in range(6)], None
    with kumiko.Stream() as stream:
        for source, out in zip([q, *middle], middle):
            expected = kumiko.attention(expected, k, v)
            last = stream.attention(source, k, v, out=out)
        assert np.array_equal(last.wait(), expected)


def test_keys_are_written_before_attention_reads_them(random):
    """A decode step in one stream: rotated keys into pages, then attention over them with the rotated queries."""
    key, value = (random.standard_normal((4, 2, 16)).astype(np.float32) for _ in range(2))
    query, weights = random.standard_normal((4, 4, 16)).astype(np.float32), random.random(16).astype(np.float32)
    options = {"positions": [0, 1, 2, 9], "rotary_dim": 8, "key_norm": weights, "query_norm": weights, "interleaved": True}
    tables = [(np.zeros((3, 8, 2, 16), np.float32), np.zeros((3, 8, 2, 16), np.float32)) for _ in range(2)]
    steps = {"layout": "bshd", "cu_seqlens_q": [0, 4], "seqused_k": [4], "block_table": np.array([[2]], np.int32), "causal": True}
    rotated = kumiko.kv_append(key, value, *tables[0], [16, 17, 18, 19], query=query, **options)
    expected = kumiko.attention(rotated[None], *tables[0], **steps)
    out, called = np.empty_like(query), []
    with kumiko.Stream() as stream:
        first = stream.kv_append(key, value, *tables[1], [16, 17, 18, 19], query=query, query_out=out, callback=called.append, **options)
        second = stream.attention(out[None], *tables[1], **steps)
        assert stream.kv_append(key, value, *tables[1], [16, 17, 18, 19], positions=[0, 1, 2, 9], cos_sin=np.ones((10, 16), np.float32)).wait() is None
        assert np.array_equal(second.wait(), expected) and first.wait() is out and called == [first]
        assert np.array_equal(out, rotated)
        with pytest.raises(ValueError, match=r"slot_mapping\[1\] is 16"):
            stream.kv_append(key, value, *tables[1], [16, 16, 18, 19])


def test_fullness_is_an_error_and_cancelling_makes_room(one):
    plan = kumiko.Plan(*one)
    with kumiko.Stream(capacity=2) as stream:
        gate = Gate(stream, one)
        calls = []
        tickets = [stream.submit(plan, *one), stream.attention(*one, callback=calls.append)]
        for submit in (lambda: stream.submit(plan, *one, callback=calls.append), lambda: stream.attention(*one, callback=calls.append)):
            with pytest.raises(queue.Full, match="2 open calls"):
                submit()
        assert not tickets[0].done and tickets[0].cancel() and tickets[0].done and not tickets[0].cancel()
        with pytest.raises(CancelledError):
            tickets[0].wait()
        later = stream.submit(plan, *one)
        assert tickets[1].cancel() and not tickets[1].done and not calls
        gate.open()
        with pytest.raises(CancelledError):
            tickets[1].wait()
        assert calls == [tickets[1]] and np.all(later.wait() == 1)


def test_callbacks_come_in_order_and_before_the_ticket_is_done(one):
    order, tickets = [], []
    with kumiko.Stream() as stream:
        gate = Gate(stream, one)
        for n in range(20):
            tickets.append(stream.attention(*one, callback=lambda ticket, n=n: order.append((n, ticket.done, ticket.wait()[0, 0, 0, 0]))))
        assert order == []
        gate.open()
        assert tickets[-1].wait() is not None
    assert order == [(n, False, 1.0) for n in range(20)]


def test_a_callback_may_submit_update_and_not_wait_for_itself(tensors):
    q, k, v = tensors((1, 4, 1, 32), kv_len=64)
    plan, stream, ended, found, errors = kumiko.Plan(q, k, v, seqused_k=[1]), kumiko.Stream(capacity=1), threading.Event(), [], []

    def step(ticket):
        found.append(ticket.wait())
        if len(found) == 10:
            return ended.set()
        plan.update([len(found) + 1])
        later = stream.submit(plan, q, k, v, callback=step)
        with pytest.raises(ValueError, match="ticket is of a call that has not ended"):
            later.wait()
        errors.append(1)

    stream.submit(plan, q, k, v, callback=step)
    assert ended.wait(60) and len(errors) == 9
    for n, out in enumerate(found):
        assert np.array_equal(out, kumiko.attention(q, k, v, seqused_k=[n + 1]))


def test_an_exception_of_a_callback_is_unraisable(one, monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: seen.append(str(found.exc_value)))
    with kumiko.Stream() as stream:
        assert np.all(stream.attention(*one, callback=lambda _: 1 / 0).wait() == 1)
    assert seen == ["division by zero"]


def test_errors_of_a_submission(one, tensors):
    q, k, v = tensors()
    stream, plan = kumiko.Stream(), kumiko.Plan(q, k, v)
    with pytest.raises(ValueError, match="softcap is -1"):
        stream.attention(q, k, v, softcap=-1)
    with pytest.raises(ValueError, match="expected the planned"):
        stream.submit(plan, q[:, :, :3], k, v)
    with pytest.raises(TypeError, match=r"plan is 3 \(int\); expected a kumiko.Plan"):
        stream.submit(3, q, k, v)
    with pytest.raises(TypeError, match=r"callback is 3 \(int\); expected a function or None"):
        stream.attention(q, k, v, callback=3)
    with pytest.raises(ValueError, match="plan is of another context"):
        kumiko.Stream(kumiko.Context(executor="serial")).submit(plan, q, k, v)
    for capacity in (0, 65537):
        with pytest.raises(ValueError, match=f"capacity is {capacity}; expected 1..65536"):
            kumiko.Stream(capacity=capacity)
    with pytest.raises(TypeError, match="context is 3"):
        kumiko.Stream(3)
    with pytest.raises(TypeError):
        kumiko._core.Ticket()
    stream.close()
    stream.close()
    with pytest.raises(ValueError, match="stream is closed"):
        stream.attention(q, k, v)


def test_a_plan_with_submitted_runs_is_not_updated(one):
    plan = kumiko.Plan(*one, seqused_k=[1])
    with kumiko.Stream() as stream:
        gate = Gate(stream, one)
        ticket = stream.submit(plan, *one)
        with pytest.raises(ValueError, match="plan has 1 submitted runs"):
            plan.update([1])
        gate.open()
        ticket.wait()
        plan.update([1])


def test_tensors_live_as_long_as_their_call(one):
    """A stream keeps the tensors of dropped tickets, and of plans that are gone, and lets them go after their calls."""
    alive = []

    def array():
        made = np.ones((1, 1, 1, 8), np.float32)
        alive.append(weakref.ref(made))
        return made

    stream, out = kumiko.Stream(), np.zeros((1, 1, 1, 8), np.float32)
    gate = Gate(stream, one)
    stream.attention(array(), array(), array(), out=out)
    stream.submit(kumiko.Plan(*one, seqused_k=[1]), array(), array(), array())
    dropped = stream.attention(array(), array(), array())
    assert dropped.cancel()
    del dropped
    gc.collect()
    assert all(ref() is not None for ref in alive[:6])
    gate.open()
    stream.attention(*one).wait()
    stream.attention(*one)
    gc.collect()
    assert np.all(out == 1) and all(ref() is None for ref in alive)


def test_closing_cancels_and_waits(one):
    stream, told = kumiko.Stream(), []
    gate = Gate(stream, one)

    def late(ticket):
        told.append(ticket)
        with pytest.raises((CancelledError, ValueError)):
            stream.attention(*one)

    waiting, plain = stream.attention(*one, callback=late), stream.attention(*one)
    closer = threading.Thread(target=stream.close)
    closer.start()
    with pytest.raises(CancelledError):
        plain.wait()
    assert closer.is_alive()
    gate.open()
    closer.join(60)
    assert told == [waiting] and waiting.done and gate.ticket.wait() is not None


def test_a_callback_may_close_or_drop_its_stream(one):
    for end in ("close", "drop"):
        holder, ended = [kumiko.Stream()], threading.Event()
        gate = Gate(holder[0], one)
        first = holder[0].attention(*one, callback=lambda _: holder[0].close() if end == "close" else holder.clear())
        plain, last = holder[0].attention(*one), holder[0].attention(*one, callback=lambda _: ended.set())
        gate.open()
        assert np.all(first.wait() == 1)
        for ticket in (plain, last):
            with pytest.raises(CancelledError):
                ticket.wait()
        assert ended.is_set()


def test_waiting_lets_other_threads_run(one):
    with kumiko.Stream() as stream:
        gate = Gate(stream, one)
        ticket = stream.attention(*one)
        opener = threading.Timer(0, gate.open)
        opener.start()
        assert np.all(ticket.wait() == 1)
        opener.join()


def test_many_threads_on_some_streams(tensors):
    problems = [tensors((1, 2, 1 + n, 16), kv_len=60) for n in range(8)]
    plans = [kumiko.Plan(*problem) for problem in problems]
    expected = [kumiko.attention(*problem).tobytes() for problem in problems]
    streams, wrong, calls = [kumiko.Stream(capacity=4) for _ in range(3)], [], []

    def work(n):
        for step in range(40):
            stream, callback = streams[(n + step) % 3], calls.append if step % 2 else None
            try:
                ticket = stream.submit(plans[n], *problems[n], callback=callback) if step % 3 else stream.attention(*problems[n], callback=callback)
            except queue.Full:
                continue
            cancelled = step % 5 == 0 and ticket.cancel()
            try:
                right = ticket.wait().tobytes() == expected[n] and not cancelled
            except CancelledError:
                right = cancelled
            if not (right and ticket.done and calls.count(ticket) == bool(callback)):
                wrong.append((n, step))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def sum_on_a_stream(problem):
    with kumiko.Stream() as stream:
        return stream.attention(*problem).wait().sum()


def test_a_forked_child_is_refused(one):
    stream, plan = kumiko.Stream(), kumiko.Plan(*one)
    gate = Gate(stream, one)
    ticket = stream.attention(*one)
    for work in (lambda: stream.attention(*one), lambda: stream.submit(plan, *one), ticket.wait):
        error = in_child(work)
        assert isinstance(error, NotImplementedError) and "fork" in str(error)
    assert in_child(lambda: (ticket.done, ticket.cancel(), stream.close())) == (False, False, None)
    assert in_child(lambda: sum_on_a_stream(one)) == 8
    gate.open()
    assert np.all(ticket.wait() == 1)


def test_the_interpreter_may_end_with_open_streams():
    text = """if True:
        import atexit
        def late():  # registered first, and so called last
            try:
                kumiko.Stream()
            except NotImplementedError as error:
                print(error)
        atexit.register(late)
        import numpy, kumiko
        x, stream = numpy.ones((1, 8, 256, 64), numpy.float32), kumiko.Stream()
        def again(ticket):
            try:
                stream.attention(x, x, x, callback=again)
            except Exception:
                pass
        for _ in range(8): stream.attention(x, x, x, callback=again)
        kept = [stream.attention(x, x, x) for _ in range(4)]
        print("end")"""
    for _ in range(3):
        assert script(text).splitlines() == ["end", "stream is made while the interpreter ends; expected one made before"]
