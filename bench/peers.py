#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures other libraries on the problems of attention_bench, serving_bench and backward_bench: those of peer_libraries.py, installed by `scripts/setup peers`.

run_groups.py calls `run_pass`, which starts this file again with the Python of each of their environments, one process per ISA and
thread count. There peer_problems.cpp, loaded as a library, provides the same shapes, data, check, ceilings and rules of a
measurement as attention_bench has. A peer may have several ways to compute a problem; ways with a wrong answer are
dropped, and the fastest of the others is measured.
"""

import ctypes
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

# By the name in peer_libraries.PEERS. vLLM has its own: its extension needs the PyTorch that it was built with.
VENVS = {name: pathlib.Path(__file__).resolve().parent.parent / name for name in (".venv-peers", ".venv-peers-vllm")}
PROGRAMS = ("attention_bench", "serving_bench", "backward_bench")  # The programs with the same problems.
LIBRARY = "libpeer_problems.so"
PROBE = 20e-3  # Seconds of calls, three times, to compare a peer's ways, unless one call takes longer.
REST = 5e-3  # Seconds over which rest() looks whether a peer's threads still spin; ONNX Runtime's do for up to 0.1 s after a call.
LOOK = 100e-6  # Seconds of calls between two readings of the clock, at least, as in rounds.h: a reading costs up to 1 us.
# Keeps PyTorch (its own code, oneDNN's and MKL's) to the instruction set of a row; bf16 on AVX-512 is multiplied without AVX512-BF16.
# On other rows nothing is set.
AVX2_ALONE = {"ATEN_CPU_CAPABILITY": "avx2", "DNNL_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
AVX512_ALONE = {"ATEN_CPU_CAPABILITY": "avx512", "DNNL_MAX_CPU_ISA": "AVX512_CORE_VNNI", "MKL_ENABLE_INSTRUCTIONS": "AVX512"}
HELD = {("avx2", False): AVX2_ALONE, ("avx2", True): AVX2_ALONE, ("avx512", True): AVX512_ALONE}  # By ISA, and whether the type is bf16.

COMPILING = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}  # No pool of processes that outlive the call.


# --- Called by run_groups.py: the standard library only.

def pythons():
    """The interpreters that have peers, by environment; without those that are not installed."""
    return {name: venv / "bin" / "python" for name, venv in VENVS.items() if (venv / "kumiko-requirements").exists()}


def run_pass(directory, figures):
    """Measures the peers on figures of PROGRAMS, appending to figure["peers"][name]; returns a sentence for each thing they cannot do."""
    notes, todo = [], {}
    for f in figures:
        todo.setdefault((f["isa"], f["threads"], "_bf16" in f["name"]), []).append(f)  # As shapes.cpp names them.
    for environment, python in pythons().items():
        for (isa, threads, is_bf16), group in todo.items():
            # Ways chosen in an earlier pass are not searched again; a peer that failed searches again.
            names = {f["name"].split("/")[0]: f.get("ways", {}) for f in group}
            while names:
                done = subprocess.run([python, __file__, directory / LIBRARY, environment, isa, str(threads), json.dumps(names)],
                                      text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                      env={**os.environ, **COMPILING, **HELD.get((isa, is_bf16), {})})
                for line in done.stdout.splitlines():
                    if line.startswith("{"):  # Other lines were printed by a library.
                        take(json.loads(line), group, names, notes)
                if done.returncode == 0 or not names:
                    break
                # The process failed in the first of the benchmarks that are left: the others run without that one.
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                failed = next(iter(names))
                del names[failed]
                notes.append(f"{failed}/{isa}/t{threads}: the process of {environment} ended with status {done.returncode}: {last}")
    return notes


def take(result, group, names, notes):
    """Takes one line of a peers' process: a note, the end of a benchmark, or a peer's figures."""
    if "note" in result:
        notes.append(result["note"])
    elif "done" in result:
        names.pop(result["done"], None)
    else:
        for f in group:
            if f["name"].split("/")[0] == result["name"] and f["counter"] in result["counters"]:
                value = result["counters"][f["counter"]] * f.get("scale", 1)
                f.setdefault("peers", {}).setdefault(result["peer"], []).append(value)
                f.setdefault("peers_cores_there", {}).setdefault(result["peer"], []).append(result["counters"].get("cores_there", 1))
                f.setdefault("ways", {})[result["peer"]] = result["ways"]


def best(figure, credible=lambda values: values):
    """(name, value) of the best peer, (None, None) if there is none; `credible` leaves out passes that do not count."""
    medians = [(statistics.median(values), name) for name, found in figure.get("peers", {}).items() if (values := credible(found))]
    if not medians:
        return None, None
    value, name = min(medians) if figure.get("at_most") else max(medians)
    return name, value


# --- In an environment of the peers: problems and ceilings, from peer_problems.cpp.

class Fields(ctypes.Structure):
    _fields_ = ([(name, ctypes.c_int64) for name in ("batch", "q_heads", "kv_heads", "q_len", "kv_len", "head_dim", "v_head_dim",
                                                      "is_causal", "window_left", "is_decode", "type", "bshd",
                                                      "sets", "page_keys", "tokens")]
                + [("work", ctypes.c_double)]
                + [(name, ctypes.c_void_p) for name in ("q", "out", "mask", "seqused_k", "cu_seqlens_q", "block_table", "dout",
                                                       "dq", "dk", "dv", "impl")])


class Machine:
    """The ceilings of bench/machine_peak.h on the first `threads` cores, and the rules of bench/rounds.h."""

    def __init__(self, library, isa):
        self.library = ctypes.CDLL(str(library))
        self.library.kumiko_bench_ceiling.restype = ctypes.c_double
        self.library.kumiko_bench_check.restype = ctypes.c_char_p
        self.isa = isa
        rounds, held_again, steady, window = ctypes.c_int(), ctypes.c_int(), ctypes.c_double(), ctypes.c_double()
        self.library.kumiko_bench_rules(*map(ctypes.byref, (rounds, held_again, steady, window)))
        self.rounds, self.held_again, self.steady, self.window = rounds.value, held_again.value, steady.value, window.value
        self.gain_attempts = self.library.kumiko_bench_gain_attempts()

    def runs(self, isa):
        return bool(self.library.kumiko_bench_runs(isa.encode()))

    def has_better(self, type):
        """Whether the host has a better instruction set than the row's for tensors of `type`."""
        better = {"avx2": "avx512", "avx512": "avx512_bf16" if type == "bf16" else None}.get(self.isa)
        return better is not None and self.runs(better)

    def cores(self, threads):
        cpus = (ctypes.c_int * threads)()
        return set(cpus[:self.library.kumiko_bench_cores(threads, cpus)])

    def clock(self, threads):
        """CPU time of the process, its helper threads included, or wall time: the one that attention_bench uses for this number of threads."""
        return time.process_time if self.library.kumiko_bench_on_cpu_clock(threads) else time.perf_counter

    def ceiling(self, problem, threads):
        return self.library.kumiko_bench_ceiling(ctypes.byref(problem.fields), self.isa.encode(), threads)

    def gain_begin(self, threads):
        self.library.kumiko_bench_gain_begin(self.isa.encode(), threads)

    def gain_counts(self, threads):
        """After the workload: whether all cores were available."""
        return bool(self.library.kumiko_bench_gain_end(threads))


class Problem:
    """A case of bench/shapes.cpp or bench/gradient_problem.cpp. Tensors are NumPy arrays [batch, heads, len, dim] over its memory, with bf16 as
    uint16. Where `dout` is not null, the answer is dq, dk and dv, one after another."""

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

    def close(self):
        """Its arrays must not be used after this."""
        self.library.kumiko_bench_close(ctypes.byref(self.fields))

    def tensor(self, address, heads, length, dim, batch=None):
        batch = self.batch if batch is None else batch
        if self.bshd:
            return self.array(address, batch, length, heads, dim).transpose(0, 2, 1, 3)
        return self.array(address, batch, heads, length, dim)

    def rows(self, address, dim):
        """Queries or outputs: [batch, heads, q_len, dim], or [1, heads, tokens, dim] where they are packed."""
        if self.tokens:
            return self.tensor(address, self.q_heads, self.tokens, dim, batch=1)
        return self.tensor(address, self.q_heads, self.q_len, dim)

    def queries(self):
        return self.rows(self.q, self.head_dim)

    def used(self):
        """Keys of each sequence: [batch] of int32."""
        import numpy
        return self.array(self.seqused_k, self.batch, dtype="i4") if self.seqused_k else numpy.full(self.batch, self.kv_len, "i4")

    def keys_and_values(self, index):
        k, v = ctypes.c_void_p(), ctypes.c_void_p()
        self.library.kumiko_bench_set(ctypes.byref(self.fields), index, ctypes.byref(k), ctypes.byref(v))
        return (self.tensor(k.value, self.kv_heads, self.kv_len, self.head_dim),
                self.tensor(v.value, self.kv_heads, self.kv_len, self.v_head_dim))

    def gradients(self):
        """The memory of dq, dk and dv, one dimension each."""
        sizes = (self.batch * heads * self.q_len * self.head_dim for heads in (self.q_heads, self.kv_heads, self.kv_heads))
        return [self.array(address, size) for address, size in zip((self.dq, self.dk, self.dv), sizes)]

    def visible(self):
        """None if is_causal alone says what is visible; else [batch or 1, 1, q_len or 1, kv_len] of bool."""
        import numpy
        if not self.mask and not self.seqused_k and self.window_left < 0:
            return None
        key = numpy.arange(self.kv_len)
        used = self.used() if self.seqused_k else numpy.array([self.kv_len])
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
        """None, or a sentence on what is wrong; `answer` is the output over the set `index`, [batch, heads, len, dim] or with heads and rows as one."""
        self.library.kumiko_bench_poison(ctypes.byref(self.fields))
        if self.dout:
            parts = self.gradients()
            if answer.size == sum(part.size for part in parts) and answer.dtype == parts[0].dtype:
                at = 0
                for part in parts:
                    part[...] = answer[at:at + part.size]
                    at += part.size
            return self.library.kumiko_bench_check(ctypes.byref(self.fields), index).decode() or None
        out = self.rows(self.out, self.v_head_dim)
        if answer.size == out.size and answer.dtype == out.dtype:
            out[...] = answer.reshape(out.shape)
        return self.library.kumiko_bench_check(ctypes.byref(self.fields), index).decode() or None


# --- Measuring, as attention_bench does: rounds of ceiling, workload, ceiling.

def rest():
    """Returns once the threads of this process sleep, as they must while another peer or the ceiling is measured."""
    for _ in range(100):
        before = time.process_time()
        time.sleep(REST)
        if time.process_time() - before < 0.1 * REST:
            return


class Way:
    """A peer's fastest way with a right answer to compute a problem with `threads` threads, timed by `clock`; `call` is None if there is none."""

    def __init__(self, peer, problem, machine, threads, clock, known=None):
        self.problem, self.cpus, self.clock, self.window = problem, machine.cores(threads), clock, machine.window
        self.notes, self.index, self.call = [], 0, None
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
            except Exception as error:  # Whatever a peer throws, it cannot do this problem.
                why = (str(error).strip().splitlines() or [type(error).__name__])[0]
                self.notes.append(f"{peer.name}, {what}: {why[:200]}")
                continue
            if fastest is None or seconds < fastest:
                fastest, self.call, self.answer, self.what = seconds, call, answer, what

    def time(self, call, window):
        """Mean seconds of a call over about `window` seconds of calls, cycling through the sets, on the cores of the ceiling's threads."""
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.cpus)
        try:
            calls, batch = 0, 1
            begin = last = self.clock()
            while True:
                for _ in range(batch):
                    self.index = (self.index + 1) % self.problem.sets
                    call(self.index)
                calls += batch
                now = self.clock()
                if now - begin >= window:
                    return (now - begin) / calls
                if now - last < LOOK:
                    batch *= 2
                last = now
        finally:
            rest()
            os.sched_setaffinity(0, before)

    def seconds(self):
        return self.time(self.call, self.window)

    def wrong(self):
        """The error of one more call. The previous answer is first set to NaN if it is in the same memory."""
        before = self.answer()
        if before.flags.writeable:
            before.view(f"u{before.itemsize}")[...] = 2 ** (8 * before.itemsize) - 1
        self.index = (self.index + 1) % self.problem.sets
        self.call(self.index)
        return self.problem.wrong(self.answer(), self.index)


def rates(ways, machine, threads):
    """Counters of attention_bench for each of `ways`, measured in turns."""
    p = ways[0].problem
    found = [([], []) for _ in ways]
    for _ in range(machine.rounds):
        for way, (rate, fraction) in zip(ways, found):
            after = machine.ceiling(p, threads)
            for _ in range(1 + machine.held_again):
                before, seconds, after = after, way.seconds(), machine.ceiling(p, threads)
                if max(before, after) <= machine.steady * min(before, after):
                    break
            rate.append(p.work / seconds)
            fraction.append(rate[-1] / (0.5 * (before + after)))
    names = ("gbps", "limit_fraction") if p.is_decode else ("gflops", "peak_fraction")
    return [dict(zip(names, (statistics.median(rate) * 1e-9, statistics.median(fraction)))) for rate, fraction in found]


def speedups(ones, manies, machine, threads):
    """The same as measure_speedup() of speedup.h."""
    ratios = [([], []) for _ in ones]  # Of all rounds, and of those that had all cores.
    for _ in range(machine.rounds):
        for one, many, (ratio, counted) in zip(ones, manies, ratios):
            before = one.seconds()
            for _ in range(machine.gain_attempts):
                machine.gain_begin(threads)
                seconds = many.seconds()
                counts = machine.gain_counts(threads)
                after = one.seconds()
                speedup, before = 0.5 * (before + after) / seconds, after
                if counts:
                    break
            ratio.append(speedup)
            if counts:
                counted.append(speedup)
    return [{"speedup": statistics.median(counted or ratio), "cores_there": int(bool(counted))} for ratio, counted in ratios]


def measure(machine, peers, name, threads, known=None):
    """Yields what to print of one benchmark; `known` has each peer's way by thread count; a peer not in it searches."""
    is_speedup = name.startswith("speedup_")
    try:
        problem = Problem(machine, name.removeprefix("speedup_"))
    except KeyError:
        return  # No peer can do this.
    try:
        yield from measure_problem(machine, peers, problem, name, (1, threads) if is_speedup else (threads,), known or {})
    finally:
        problem.close()


def measure_problem(machine, peers, problem, name, counts, known):
    clock = machine.clock(counts[-1])
    chosen = []
    for peer in peers:
        if problem.page_keys and not peer.has_pages or problem.dout and not peer.has_gradients:
            continue
        if machine.has_better(problem.type) and not peer.held_to_isa:
            continue
        ways = [Way(peer, problem, machine, n, clock, peer.name in known and known[peer.name][i] or None) for i, n in enumerate(counts)]
        yield from ({"name": name, "note": f"{name}: {note}"} for way in ways for note in way.notes)
        if all(way.call for way in ways):
            chosen.append((peer, *ways))
    if not chosen:
        return
    columns = list(zip(*chosen))
    counters = speedups(columns[1], columns[2], machine, counts[-1]) if len(counts) == 2 else rates(columns[1], machine, counts[-1])
    for (peer, *ways), found in zip(chosen, counters):
        if wrong := next(filter(None, (way.wrong() for way in ways)), None):
            yield {"name": name, "note": f"{name}: {peer.name}, {ways[-1].what}: {wrong}"}
        else:
            yield {"name": name, "peer": peer.name, "ways": [way.what for way in ways], "counters": found}


def main(library, environment, isa, threads, names):
    machine, threads = Machine(library, isa), int(threads)
    os.sched_setaffinity(0, machine.cores(threads))  # The peers' threads inherit it.
    import peer_libraries
    peers = []
    for peer in peer_libraries.PEERS[environment]:
        try:
            if peer.held_to_isa or not machine.has_better("f32"):  # measure_problem() would skip the others in every row.
                peers.append(peer(isa))
        except Exception as error:  # A library that does not load.
            print(json.dumps({"note": f"{peer.__name__}: {error}"}), flush=True)
    for name, known in json.loads(names).items():
        for result in measure(machine, peers, name, threads, known):
            print(json.dumps(result), flush=True)
        print(json.dumps({"done": name}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
