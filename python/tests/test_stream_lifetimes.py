# SPDX-License-Identifier: Apache-2.0
"""What a stream keeps until its calls have ended, and what may happen when it lets go."""

import gc
import weakref

import numpy as np
import pytest
from test_stream import Gate
from test_tensors import Immutable

import kumiko


@pytest.fixture
def one():
    """A call that takes little time."""
    return [np.ones((1, 1, 1, 8), np.float32) for _ in range(3)]


def test_the_tensor_that_a_result_is_like_lives_as_long(random):
    """Of int8 queries it is v: here an object that nothing else keeps."""
    q, k = (random.integers(-9, 9, (1, 2, n, 8)).astype(np.int8) for n in (3, 11))
    scales = {"q_scale": np.ones((1, 2, 3), np.float32), "k_scale": np.ones((1, 2, 11), np.float32)}
    v, stream = random.standard_normal((1, 2, 11, 8)).astype(np.float32), kumiko.Stream()
    like = Immutable(v)
    alive = weakref.ref(like)
    ticket = stream.attention(q, k, like, **scales)
    del like
    gc.collect()
    assert alive() is not None and np.array_equal(ticket.wait().seen, kumiko.attention(q, k, v, **scales))
    del ticket
    stream.attention(q, k, v, **scales).wait()
    stream.attention(q, k, v, **scales)
    assert alive() is None


class Last(np.ndarray):
    """Calls a function when it is let go."""

    def __del__(self):
        if hasattr(self, "function"):
            self.function()


@pytest.mark.parametrize("kind", ["ended", "cancelled"])
def test_a_finalizer_of_a_tensor_may_submit_to_its_stream(one, kind):
    """While the stream lets go of calls that have ended, in order, or that were cancelled between others."""
    count = 3 if kind == "ended" else 70  # from 64 open calls on, the stream looks at all
    stream, alive, tickets = kumiko.Stream(capacity=300), [], []

    def submit():
        made = np.ones((1, 1, 1, 8), np.float32)
        alive.append(weakref.ref(made))
        tickets.append(stream.attention(made, *one[1:]))

    def last():
        made = np.ones((1, 1, 1, 8), np.float32).view(Last)
        made.function = submit
        return made

    gate = Gate(stream, one)
    calls = [stream.attention(last(), *one[1:]) for _ in range(count)]
    if kind == "cancelled":
        assert all(ticket.cancel() for ticket in calls)
    else:
        gate.open()
        calls[-1].wait()
    del calls
    for _ in range(70):
        tickets.append(stream.attention(*one))
    gate.open()
    assert all(np.all(ticket.wait() == 1) for ticket in tickets) and len(alive) == count
    tickets.clear()
    stream.attention(*one).wait()
    stream.attention(*one)
    gc.collect()
    assert all(ref() is None for ref in alive)
