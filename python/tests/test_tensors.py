# SPDX-License-Identifier: Apache-2.0
"""What goes in and comes out, and what is refused by name. tests/peers has PyTorch's and JAX's tensors."""

import array
import ctypes
import sys
import weakref

import ml_dtypes
import numpy as np
import pytest

import kumiko


class Exporter:
    """A tensor that speaks DLPack alone; of before version 1 if `is_old`."""

    def __init__(self, tensor, is_old=False, device=(1, 0)):
        self.tensor, self.is_old, self.place = tensor, is_old, device

    def __dlpack__(self, **options):
        if self.is_old and options:
            raise TypeError("__dlpack__() takes no arguments")
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.place


class OnGpu(Exporter):
    device = "cuda:1"

    def __init__(self, tensor):
        super().__init__(tensor, device=(2, 1))


class Immutable(Exporter):
    """An array that its library makes, as JAX does."""

    class Namespace:
        @staticmethod
        def from_dlpack(tensor):
            made = Immutable(np.from_dlpack(tensor))
            made.seen = made.tensor.copy()
            return made

    def __array_namespace__(self):
        return self.Namespace


class AsVersion2(Exporter):
    """A tensor of a later DLPack, of which its consumer may call the deleter and nothing else."""

    def __dlpack__(self, **options):
        capsule = self.tensor.__dlpack__(max_version=(1, 0))
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        ctypes.c_uint32.from_address(pointer(capsule, b"dltensor_versioned")).value = 2
        return capsule


class Interrupted(Exporter):
    def __dlpack__(self, **options):
        raise KeyboardInterrupt


class NoNumber:
    def __index__(self):
        raise KeyboardInterrupt

    __float__ = __index__


@pytest.fixture
def qkv(tensors):
    return tensors((2, 4, 5, 8), kv_len=6)


@pytest.mark.parametrize("is_old", [False, True])
def test_dlpack_in_and_out(qkv, is_old):
    out, lse = kumiko.attention(*(Exporter(x, is_old) for x in qkv), return_lse=True)
    expected = kumiko.attention(*qkv, return_lse=True)
    for made, wanted in ((out, expected[0]), (lse, expected[1])):
        assert type(made).__module__ != "numpy" and made.__dlpack_device__() == (1, 0)
        assert np.array_equal(np.from_dlpack(made), wanted) and np.array_equal(np.asarray(memoryview(made)), wanted)
    assert np.array_equal(np.from_dlpack(kumiko.attention(out, out, out)), kumiko.attention(*3 * (expected[0],)))


def test_float16_by_dlpack(tensors):
    q, k, v = tensors(dtype=np.float16)
    out = np.from_dlpack(kumiko.attention(*map(Exporter, (q, k, v))))
    assert out.dtype == np.float16 and np.array_equal(out, kumiko.attention(q, k, v))


def test_dlpack_of_strided_views_is_not_copied(qkv):
    out = np.zeros((2, 5, 4, 9), np.float32)[..., 1:].transpose(0, 2, 1, 3)
    given = Exporter(out)
    assert kumiko.attention(*qkv, out=given) is given
    assert np.array_equal(out, kumiko.attention(*qkv)) and np.all(out.base[..., 0] == 0)


def test_arrays_that_never_change_are_made_after_the_call(qkv):
    out, lse = kumiko.attention(*map(Immutable, qkv), return_lse=True)
    expected = kumiko.attention(*qkv, return_lse=True)
    assert np.array_equal(out.seen, expected[0]) and np.array_equal(lse.seen, expected[1])


def test_buffers(qkv):
    views = [memoryview(x) for x in qkv]
    out = kumiko.attention(*views)
    assert np.array_equal(np.asarray(memoryview(out)), kumiko.attention(*qkv))
    memory = array.array("f", bytes(out.nbytes if hasattr(out, "nbytes") else 2 * 4 * 5 * 8 * 4))
    into = memoryview(memory).cast("B").cast("f", (2, 4, 5, 8))
    kumiko.attention(*views, out=into)
    assert memory.tobytes() == kumiko.attention(*qkv).tobytes()


def test_dimensions_of_one_may_have_any_stride(random):
    strange = [np.lib.stride_tricks.as_strided(random.standard_normal((3, 8)).astype(np.float32), (1, 1, 3, 8), (-4, 12, 32, 4)) for _ in range(3)]
    assert np.array_equal(kumiko.attention(*strange), kumiko.attention(*(x.copy() for x in strange)))
    narrow = [random.standard_normal((2, 3, 4, 2)).astype(np.float32)[..., :1] for _ in range(3)]  # head_dim 1, stride 2 before it
    assert np.array_equal(kumiko.attention(*narrow), kumiko.attention(*(x.copy() for x in narrow)))


def test_bfloat16_of_any_type_object():
    """numpy has one type object of it, and others with metadata or of another byte order."""
    known = np.ones((1, 1, 2, 8), ml_dtypes.bfloat16)
    expected = kumiko.attention(known, known, known)
    other = known.view(np.dtype(known.dtype, metadata={"unit": "m"}))
    assert other.dtype is not known.dtype
    assert kumiko.attention(other, other, other).tobytes() == expected.tobytes()
    swapped = known.view(known.dtype.newbyteorder())
    with pytest.raises(ValueError, match="^k.dtype is bfloat16 in the other byte order; expected a number type in this machine's"):
        kumiko.attention(known, swapped, known)


@pytest.mark.parametrize("options", [{"window": (NoNumber(), 0)}, {"scale": NoNumber()}, {"bias": Interrupted(np.ones((2, 2), np.float32))}])
def test_an_interrupt_is_no_error_of_an_argument(options):
    x = np.ones((1, 1, 2, 8), np.float32)
    with pytest.raises(KeyboardInterrupt):
        kumiko.attention(x, x, x, **options)


def test_subclasses_of_arrays(qkv, tmp_path):
    mapped = np.memmap(tmp_path / "q", np.float32, "w+", shape=qkv[0].shape)
    mapped[:] = qkv[0]
    assert np.array_equal(kumiko.attention(mapped, *qkv[1:]), kumiko.attention(*qkv))


def test_nothing_is_kept(tensors, dtype):
    """Neither a call that succeeds nor one that fails holds a tensor or a buffer."""
    q, k, v = (x.view(type("Noted", (np.ndarray,), {})) for x in tensors(dtype=dtype))
    kept = [weakref.ref(x) for x in (q, k, v)]
    kumiko.attention(q, k, v)
    before = sys.getrefcount(q)
    for _ in range(100):
        kumiko.attention(q, k, v)
        with pytest.raises(ValueError):
            kumiko.attention(q, k, v, out=q)
        with pytest.raises(TypeError):
            kumiko.attention(q, k, None)
    assert sys.getrefcount(q) == before
    del q, k, v
    assert [ref() for ref in kept] == [None] * 3


def test_a_resizable_buffer_is_released():
    memory = bytearray(4 * 8)
    view = memoryview(memory).cast("f", (1, 1, 1, 8))
    kumiko.attention(view, view, view)
    view.release()
    memory.extend(b"more")  # BufferError while anyone holds the buffer


ZEROS = np.zeros((2, 4, 5, 8), np.float32)
READ_ONLY = ZEROS.copy()
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize("change, error, words", [
    ({"q": Exporter(ZEROS, device=[1, 0])}, TypeError, r"^q is \[1, 0\] \(list\); expected a pair of integers from its __dlpack_device__"),
    ({"q": Exporter(ZEROS, device=(1, "0"))}, TypeError, r"^q is \(1, '0'\) \(tuple\); expected a pair of integers"),
    ({"q": AsVersion2(ZEROS)}, ValueError, "^q is a tensor of DLPack 2; expected version 1"),
    ({"scale": 10**400}, ValueError, "^scale is too large for a float; expected a smaller number"),
    ({"alibi_slopes": np.ones((2, 4), np.float32)[::-1]}, ValueError, r"^alibi_slopes.stride\[0\] is -4; expected 0, or at least"),
    ({"q": None}, TypeError, "q is None; expected a tensor"),
    ({"k": 3}, TypeError, r"k is 3 \(int\); expected a tensor"),
    ({"v": [[1.0]]}, TypeError, r"v is \[\[1.0\]\] \(list\); expected a tensor"),
    ({"q": np.ndarray}, TypeError, "q is <class 'numpy.ndarray'>"),
    ({"q": "text"}, TypeError, "q is 'text'"),
    ({"q": b"bytes"}, ValueError, "q.shape is .*expected four dimensions: batch, heads, seq, dim"),
    ({"q": np.float32(1)}, ValueError, r"q.shape is \(\); expected four dimensions"),
    ({"q": ZEROS, "layout": "bshd", "k": ZEROS[0]}, ValueError, r"k.shape is \(4, 5, 8\); expected four dimensions: batch, seq, heads, dim"),
    ({"q": np.zeros((1,) * 9, np.float32)}, ValueError, "q is a tensor of 9 dimensions; expected at most 8"),
    ({"q": ZEROS.astype(np.float64)}, ValueError, "q.dtype is float64; expected float32, float16 or bfloat16"),
    ({"k": ZEROS.astype(np.int32)}, ValueError, "k.dtype is int32"),
    ({"k": ZEROS.astype(np.float16)}, ValueError, "k.dtype is float16; expected float32, as in q"),
    ({"q": ZEROS.astype(">f4")}, ValueError, 'q.dtype is ">f"'),
    ({"q": ZEROS.astype(ml_dtypes.float8_e4m3fn)}, (TypeError, ValueError), "^q "),
    ({"q": ZEROS.astype("M8[s]")}, (TypeError, ValueError), "^q "),
    ({"q": np.zeros((2, 4, 5, 8), [("a", np.float32), ("b", np.int8)])["a"]}, ValueError, r"q.strides\[0\] is 800 bytes; expected a multiple|q.strides\[3\] is 5 bytes"),
    ({"v": np.zeros((2, 3, 5, 8), np.float32)}, ValueError, r"v.shape\[1\] \(heads\) is 3; expected 4, as in k.shape\[1\]"),
    ({"k": ZEROS[:, :3], "v": ZEROS[:, :3]}, ValueError, r"k.shape\[1\] \(heads\) is 3; expected a divisor of q.shape\[1\]"),
    ({"q": ZEROS[..., ::-1]}, ValueError, r"q.stride\[3\] \(head_dim\) is -1; expected 0 or more"),
    ({"k": ZEROS[:, :, ::-1]}, ValueError, r"k.stride\[2\] \(seq\) is -8; expected 0 or more"),
    ({"q": np.zeros((2, 4, 5, 16), np.float32)[..., ::2]}, ValueError, r"q.stride\[3\] \(head_dim\) is 2; expected 1"),
    ({"q": OnGpu(ZEROS)}, ValueError, "q is a tensor on cuda:1; expected one in the memory of the CPU"),
    ({"out": Exporter(ZEROS, device=(13, 2))}, ValueError, "out is a tensor on DLPack's device type 13, number 2; expected one in the memory"),
    ({"q": Exporter(ZEROS.astype("M8[s]"))}, ValueError, "q cannot be shared by DLPack: "),
    ({"out": READ_ONLY}, ValueError, "out is read-only; expected memory that can be written"),
    ({"out": Exporter(READ_ONLY)}, ValueError, "out is read-only|out cannot be shared"),
    ({"lse": READ_ONLY[..., 0]}, ValueError, "lse is read-only"),
    ({"out": np.zeros((2, 4, 5, 9), np.float32)}, ValueError, r"out.shape\[3\] \(head_dim\) is 9; expected 8, as in v"),
    ({"out": ZEROS.astype(np.float16)}, ValueError, "out.dtype is float16; expected float32"),
    ({"out": 3}, TypeError, r"out is 3 \(int\)"),
    ({"lse": np.zeros((2, 4, 6), np.float32)}, ValueError, r"lse.shape\[2\] is 6; expected 5, as in q"),
    ({"lse": np.zeros((2, 4, 5))}, ValueError, "lse.dtype is float64; expected float32"),
    ({"lse": np.zeros((4, 5), np.float32)}, ValueError, r"lse.shape is \(4, 5\); expected three dimensions"),
    ({"lse": np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (2, 4, 5), (0, 0, 0))}, ValueError, "lse.stride is 0 in every dimension"),
    ({"out": np.lib.stride_tricks.as_strided(np.zeros(8, np.float32), (2, 4, 5, 8), (0, 0, 0, 4))}, ValueError, r"out.stride\[.\] .* is 0; expected a stride that keeps"),
    ({"mask": np.ones((5, 5), np.uint8)}, ValueError, "mask.dtype is uint8; expected bool"),
    ({"mask": np.ones((5, 6), bool)}, ValueError, r"mask.shape is \(5, 6\); expected a shape that broadcasts to \(2, 4, 5, 5\)"),
    ({"mask": np.ones((1, 1, 1, 1, 5), bool)}, ValueError, "mask.shape is .*; expected at most four dimensions"),
    ({"bias": np.ones((5, 5))}, ValueError, "bias.dtype is float64"),
    ({"bias": np.ones((3, 5, 5), np.float32)}, ValueError, r"bias.shape is \(3, 5, 5\)"),
    ({"alibi_slopes": np.ones(3, np.float32)}, ValueError, r"alibi_slopes.shape is \(3,\); expected \[q_heads\]"),
    ({"alibi_slopes": np.ones((3, 4), np.float32)}, ValueError, r"alibi_slopes.shape is \(3, 4\)"),
    ({"alibi_slopes": np.ones(4)}, ValueError, "alibi_slopes.dtype is float64; expected float32"),
    ({"alibi_slopes": np.ones(8, np.float32)[::2]}, ValueError, r"alibi_slopes.stride\[-1\] is 2; expected 1"),
    ({"seqused_k": [1]}, ValueError, "seqused_k is 1 integers; expected 2, one for each sequence"),
    ({"seqused_k": [1, 6]}, ValueError, r"seqused_k\[1\] is 6; expected 0..5"),
    ({"seqused_k": 3}, TypeError, r"seqused_k is 3 \(int\)"),
    ({"kv_domains": [0]}, ValueError, "kv_domains is 1 integers; expected 8"),
    ({"kv_domains": [10**6] * 8}, ValueError, r"kv_domains\[0, 0\] is 1000000"),
    ({"causal": 1}, TypeError, r"causal is 1 \(int\); expected True or False"),
    ({"causal_alignment": "left"}, ValueError, 'causal_alignment is "left"; expected "bottom_right", "top_left"'),
    ({"window": 3}, TypeError, r"window is 3 \(int\); expected a pair"),
    ({"window": (1, 2, 3)}, ValueError, "window is of length 3"),
    ({"window": (-2, 0)}, ValueError, r"^window\[0\] \(left\) is -2; expected -1"),
    ({"window": (0, 1.5)}, TypeError, r"window\[1\] \(right\) is 1.5 \(float\); expected an integer"),
    ({"window": (0, 2**70)}, ValueError, r"window\[1\] \(right\) does not fit in 64 bits"),
    ({"scale": "x"}, TypeError, r"scale is 'x' \(str\); expected a number"),
    ({"scale": float("inf")}, ValueError, "scale is inf; expected a finite factor"),
    ({"softcap": -1}, ValueError, "softcap is -1"),
    ({"pipeline": "fast"}, ValueError, 'pipeline is "fast"; expected "automatic", "online"'),
    ({"pipeline": None}, TypeError, "pipeline is None; expected \"automatic\""),
    ({"layout": "sbhd"}, ValueError, 'layout is "sbhd"; expected "bhsd", "bshd"'),
    ({"return_lse": "no"}, TypeError, "return_lse is 'no'"),
    ({"return_row_max": 1}, TypeError, r"return_row_max is 1 \(int\)"),
    ({"row_max": READ_ONLY[..., 0]}, ValueError, "row_max is read-only"),
    ({"row_max": np.zeros((2, 4, 6), np.float32)}, ValueError, r"row_max.shape\[2\] is 6; expected 5, as in q"),
])
def test_errors_name_the_argument(change, error, words):
    with pytest.raises(error, match=words):
        kumiko.attention(**{"q": ZEROS, "k": ZEROS, "v": ZEROS, **change})


class Unspeakable:
    def __repr__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize("value, words", [(Unspeakable(), r"q is an object \(.*Unspeakable\)"), ([0.5] * 100, r"q is an object \(list\)")])
def test_what_cannot_be_shown_is_named_by_its_type(value, words):
    with pytest.raises(TypeError, match=words):
        kumiko.attention(value, ZEROS, ZEROS)


def test_flags_and_numbers_of_numpy(qkv):
    expected = kumiko.attention(*qkv, causal=True, scale=0.5, window=(2, 0))
    out = kumiko.attention(*qkv, causal=np.True_, scale=np.float32(0.5), window=(np.int64(2), np.int32(0)))
    assert np.array_equal(out, expected)


def test_an_error_writes_nothing(qkv):
    out = np.full((2, 4, 5, 8), 7, np.float32)
    with pytest.raises(ValueError, match="softcap"):
        kumiko.attention(*qkv, out=out, softcap=-1)
    assert np.all(out == 7)


@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_out_apart_from_every_input(qkv, part):
    named = dict(zip("qkv", [qkv[0], qkv[0].copy(), qkv[0].copy()]))
    with pytest.raises(ValueError, match=f"out.data is .*; expected memory apart from {part}"):
        kumiko.attention(**named, out=named[part])


def test_a_result_that_does_not_fit_in_memory():
    wide = np.broadcast_to(np.zeros((1, 1, 1, 8), np.float32), (2**22, 2**12, 2**10, 8))  # 2^49 bytes
    with pytest.raises(MemoryError):
        kumiko.attention(wide, wide, wide)
    with pytest.raises(MemoryError, match="a result of 562949953421312 bytes could not be allocated"):
        kumiko.attention(Exporter(wide), Exporter(wide), Exporter(wide))
