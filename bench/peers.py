#!/usr/bin/env python3
"""What other libraries reach on the problems of attention_bench: PyTorch's SDPA and ONNX Runtime, where `scripts/setup peers` put
them into .venv-peers.

run_groups.py calls `run_pass`, which starts this file again with that environment's Python, one process per ISA and thread count.
There peer_problems.cpp, loaded as a library, gives shapes, data, the fp64 check and the ceilings, all of them attention_bench's own.
A peer may have several ways to compute a problem; ways with a wrong answer are dropped, and the fastest of the others is measured.
"""

import ctypes
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

VENV = pathlib.Path(__file__).resolve().parent.parent / ".venv-peers"
PROGRAM = "attention_bench"  # Whose problems these are.
LIBRARY = "libpeer_problems.so"
ROUNDS = 3  # Of one process; run_groups.py takes the median over its passes.
STEADY, HELD_AGAIN = 1.25, 3  # A round between ceilings that differ by more is held again so often; as bench/rounds.h.
WINDOW = 30e-3  # Seconds of back-to-back calls in a round, at least one call; as attention_bench.
PROBE = 20e-3  # The same, three times, where a peer's ways are compared and a call takes less.
REST = 5e-3  # A look at whether a peer's threads still spin; ONNX Runtime's do for up to 0.1 s after a call.
# What keeps PyTorch (its own code, oneDNN's and MKL's) to the instruction set of a row. On a row of the host's best nothing does.
HELD = {"avx2": {"ATEN_CPU_CAPABILITY": "avx2", "DNNL_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}}

COMPILING = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}  # No pool of processes that live on.


# --- Called by run_groups.py: the standard library only.

def python():
    """The interpreter that has the peers; None where they are not installed."""
    return VENV / "bin" / "python" if (VENV / "kumiko-requirements").exists() else None


def run_pass(directory, figures):
    """Measures the peers on figures of PROGRAM, appending to figure["peers"][name]; returns sentences on what they cannot do."""
    notes = []
    todo = {}
    for f in figures:
        todo.setdefault((f["isa"], f["threads"]), []).append(f)
    for (isa, threads), group in todo.items():
        names = {f["name"].split("/")[0]: f.get("ways") for f in group}  # What the first pass chose, by peer, is not sought again.
        done = subprocess.run([python(), __file__, directory / LIBRARY, isa, str(threads), json.dumps(names)], text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **COMPILING, **HELD.get(isa, {})})
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            notes.append(f"the peers' process ended with status {done.returncode}: {last}")
        for line in done.stdout.splitlines():
            result = json.loads(line)
            if "note" in result:
                notes.append(result["note"])
                continue
            for f in group:
                if f["name"].split("/")[0] == result["name"] and f["counter"] in result["counters"]:
                    value = result["counters"][f["counter"]] * f.get("scale", 1)
                    f.setdefault("peers", {}).setdefault(result["peer"], []).append(value)
                    f.setdefault("ways", {})[result["peer"]] = result["ways"]
        for f in group if done.returncode == 0 else []:
            f.setdefault("ways", {})
    return notes


def best(figure):
    """(name, value) of the best peer, (None, None) without one."""
    medians = [(statistics.median(values), name) for name, values in figure.get("peers", {}).items()]
    if not medians:
        return None, None
    value, name = min(medians) if figure.get("at_most") else max(medians)
    return name, value


# --- In .venv-peers: problems and ceilings, from peer_problems.cpp.

class Fields(ctypes.Structure):
    _fields_ = ([(name, ctypes.c_int64) for name in ("batch", "q_heads", "kv_heads", "q_len", "kv_len", "head_dim", "v_head_dim",
                                                      "is_causal", "window_left", "by_bandwidth", "type", "sets")]
                + [("work", ctypes.c_double)] + [(name, ctypes.c_void_p) for name in ("q", "out", "mask", "seqused_k", "impl")])


class Machine:
    """The ceilings of bench/machine_peak.h on the first `threads` cores."""

    def __init__(self, library, isa):
        self.library = ctypes.CDLL(str(library))
        self.library.kumiko_bench_ceiling.restype = ctypes.c_double
        self.library.kumiko_bench_check.restype = ctypes.c_char_p
        self.isa = isa

    def cores(self, threads):
        cpus = (ctypes.c_int * threads)()
        return set(cpus[:self.library.kumiko_bench_cores(threads, cpus)])

    def ceiling(self, threads, by_bandwidth, isa=None):
        return self.library.kumiko_bench_ceiling((isa or self.isa).encode(), threads, int(by_bandwidth))


class Problem:
    """A case of bench/shapes.cpp; tensors are NumPy arrays over its memory, which stays to the end of the process; bf16 as uint16."""

    def __init__(self, machine, name):
        self.library, self.fields = machine.library, Fields()
        if not self.library.kumiko_bench_open(name.encode(), ctypes.byref(self.fields)):
            raise KeyError(name)
        for key, _ in Fields._fields_:
            setattr(self, key, getattr(self.fields, key))
        self.type = ("f32", "bf16", "f16")[self.type]
        self.group = self.q_heads // self.kv_heads

    def array(self, address, *shape, dtype=None):
        import numpy
        dtype = numpy.dtype(dtype or {"f32": "f4", "bf16": "u2", "f16": "f2"}[self.type])
        count = dtype.itemsize
        for n in shape:
            count *= n
        return numpy.frombuffer((ctypes.c_uint8 * count).from_address(address), dtype).reshape(shape)

    def queries(self):
        return self.array(self.q, self.batch, self.q_heads, self.q_len, self.head_dim)

    def keys_and_values(self, index):
        k, v = ctypes.c_void_p(), ctypes.c_void_p()
        self.library.kumiko_bench_set(ctypes.byref(self.fields), index, ctypes.byref(k), ctypes.byref(v))
        return (self.array(k.value, self.batch, self.kv_heads, self.kv_len, self.head_dim),
                self.array(v.value, self.batch, self.kv_heads, self.kv_len, self.v_head_dim))

    def visible(self):
        """None where is_causal says it all; else [batch or 1, 1, q_len or 1, kv_len] of bool."""
        import numpy
        if not self.mask and not self.seqused_k and self.window_left < 0:
            return None
        key = numpy.arange(self.kv_len)
        used = self.array(self.seqused_k, self.batch, dtype="i4") if self.seqused_k else numpy.array([self.kv_len])
        seen = (key < used[:, None])[:, None, None, :]
        if self.is_causal or self.window_left >= 0:
            at = numpy.arange(self.q_len) + (used - self.q_len)[:, None]
            if self.is_causal:
                seen = seen & (key <= at[..., None])[:, None]
            if self.window_left >= 0:
                seen = seen & (key >= at[..., None] - self.window_left)[:, None]
        if self.mask:
            seen = seen & (self.array(self.mask, self.q_len, self.kv_len, dtype="u1") != 0)
        return seen

    def wrong(self, answer, index):
        """None, or a sentence; `answer` is the output over the set `index` in any shape that holds its elements in order."""
        self.library.kumiko_bench_poison(ctypes.byref(self.fields))
        out = self.array(self.out, self.batch, self.q_heads, self.q_len, self.v_head_dim)
        if answer.size == out.size and answer.dtype == out.dtype:
            out[...] = answer.reshape(out.shape)
        return self.library.kumiko_bench_check(ctypes.byref(self.fields), index).decode() or None


# --- Measuring, as attention_bench does: rounds of ceiling, workload, ceiling.

def rest():
    """Returns once the threads of this process sleep: they must while another peer, or the ceiling, is measured."""
    for _ in range(100):
        before = time.process_time()
        time.sleep(REST)
        if time.process_time() - before < 0.1 * REST:
            return


class Way:
    """A peer's fastest right way to compute a problem with so many threads; `call` is None where it has none."""

    def __init__(self, peer, problem, machine, threads, known=None):
        self.problem, self.cpus, self.notes, self.index, self.call = problem, machine.cores(threads), [], 0, None
        fastest = None
        for what, make in peer.ways(problem, threads):
            if known not in (None, what):
                continue
            try:
                call, answer = make()
                call(0)
                if wrong := problem.wrong(answer(), 0):
                    raise ValueError(wrong)
                seconds = self.time(call, 0.0) if known is None else 0.0
                if known is None and seconds < PROBE:
                    seconds = min(self.time(call, PROBE) for _ in range(3))
            except Exception as error:  # Whatever a peer throws: it does not do that work.
                why = (str(error).strip().splitlines() or [type(error).__name__])[0]
                self.notes.append(f"{peer.name}, {what}: {why[:200]}")
                continue
            if fastest is None or seconds < fastest:
                fastest, self.call, self.answer, self.what = seconds, call, answer, what

    def time(self, call, window):
        """Mean seconds of a call over about `window` seconds of them, round the sets, on the cores of the ceiling's threads."""
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.cpus)
        try:
            calls, begin = 0, time.perf_counter()
            while True:
                self.index = (self.index + 1) % self.problem.sets
                call(self.index)
                calls += 1
                if (spent := time.perf_counter() - begin) >= window:
                    return spent / calls
        finally:
            rest()
            os.sched_setaffinity(0, before)

    def seconds(self):
        return self.time(self.call, WINDOW)

    def wrong(self):
        self.call(self.index)
        return self.problem.wrong(self.answer(), self.index)


def rates(ways, machine, threads):
    """Counters of attention_bench for each of `ways`, measured in turns."""
    p = ways[0].problem
    found = [([], []) for _ in ways]
    for _ in range(ROUNDS):
        for way, (rate, fraction) in zip(ways, found):
            after = machine.ceiling(threads, p.by_bandwidth)
            for _ in range(1 + HELD_AGAIN):
                before, seconds, after = after, way.seconds(), machine.ceiling(threads, p.by_bandwidth)
                if max(before, after) <= STEADY * min(before, after):
                    break
            rate.append(p.work / seconds)
            fraction.append(rate[-1] / (0.5 * (before + after)))
    names = ("gbps", "bandwidth_fraction") if p.by_bandwidth else ("gflops", "peak_fraction")
    return [dict(zip(names, (statistics.median(rate) * 1e-9, statistics.median(fraction)))) for rate, fraction in found]


def speedups(ones, manies):
    ratios = [[] for _ in ones]
    for _ in range(ROUNDS):
        for one, many, ratio in zip(ones, manies, ratios):
            before = one.seconds()
            seconds = many.seconds()
            ratio.append(0.5 * (before + one.seconds()) / seconds)
    return [{"speedup": statistics.median(ratio)} for ratio in ratios]


def measure(machine, peers, name, threads, known=None):
    """Yields what to print of one benchmark; `known` names the ways to take: for each peer one by thread count."""
    is_speedup = name.startswith("speedup_")
    try:
        problem = Problem(machine, name.removeprefix("speedup_"))
    except KeyError:
        return  # Nothing that a peer could do.
    counts = (1, threads) if is_speedup else (threads,)
    chosen = []
    for peer in peers:
        if known is not None and peer.name not in known:
            continue
        ways = [Way(peer, problem, machine, n, known and known[peer.name][i]) for i, n in enumerate(counts)]
        yield from ({"name": name, "note": f"{name}: {note}"} for way in ways for note in way.notes)
        if all(way.call for way in ways):
            chosen.append((peer, *ways))
    if not chosen:
        return
    columns = list(zip(*chosen))
    counters = speedups(columns[1], columns[2]) if is_speedup else rates(columns[1], machine, threads)
    for (peer, *ways), found in zip(chosen, counters):
        if wrong := next(filter(None, (way.wrong() for way in ways)), None):
            yield {"name": name, "note": f"{name}: {peer.name}, {ways[-1].what}: {wrong}"}
        else:
            yield {"name": name, "peer": peer.name, "ways": [way.what for way in ways], "counters": found}


def main(library, isa, threads, names):
    machine, threads = Machine(library, isa), int(threads)
    os.sched_setaffinity(0, machine.cores(threads))  # The peers' threads inherit it.
    import peer_libraries
    lesser = isa == "avx2" and machine.ceiling(1, False, "avx512") > 0
    peers = []
    for peer in peer_libraries.PEERS:
        try:
            if peer.held_to_isa or not lesser:
                peers.append(peer())
        except ImportError as error:
            print(json.dumps({"note": f"{peer.__name__}: {error}"}), flush=True)
    for name, known in json.loads(names).items():
        for result in measure(machine, peers, name, threads, known):
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
