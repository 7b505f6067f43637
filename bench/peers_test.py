#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tests the measuring half of peers.py on the real problems, with NumPy as the peer: peers_test.py <libpeer_problems.so>."""

import json
import pathlib
import subprocess
import sys
import time
import unittest
from unittest import mock

import peers

try:
    import numpy
except ImportError:
    numpy = None

LIBRARY = sys.argv.pop()


class NumPy:
    """One right way, one with a wrong answer and one that does not exist."""

    held_to_isa = True
    has_pages = False
    has_gradients = False

    def __init__(self, name="NumPy", fault=0.0):
        self.name, self.fault = name, fault

    def ways(self, p, threads):
        def attention(fault):
            out = [None]

            def call(index):
                q = p.queries().reshape(p.batch, p.kv_heads, -1, p.head_dim)
                k, v = p.keys_and_values(index)
                scores = (q @ k.swapaxes(-1, -2) * p.head_dim ** -0.5).reshape(p.batch, p.q_heads, p.q_len, p.kv_len)
                seen = p.visible()
                scores = numpy.exp(scores if seen is None else numpy.where(seen, scores, -numpy.inf))
                weights = (scores / scores.sum(-1, keepdims=True)).reshape(p.batch, p.kv_heads, -1, p.kv_len)
                out[0] = (weights @ v + fault).reshape(p.batch, p.q_heads, p.q_len, p.v_head_dim)
            return call, lambda: out[0]

        def missing():
            raise RuntimeError("not on this machine\nand more of it")
        yield "right", lambda: attention(self.fault)
        yield "wrong", lambda: attention(numpy.float32(1e-2))
        yield "missing", missing


@unittest.skipIf(numpy is None, "no NumPy here: scripts/setup")
class Peers(unittest.TestCase):
    def setUp(self):
        self.machine = peers.Machine(LIBRARY, "reference")  # Runs on every host.
        self.machine.rounds = self.machine.held_again = self.machine.gain_attempts = 1

    def measure(self, name, *others):
        results = list(peers.measure(self.machine, [NumPy(), *others], name, 1))
        return [r["note"] for r in results if "note" in r], {r["peer"]: r for r in results if "peer" in r}

    def test_a_right_way_is_measured_and_the_others_are_said(self):
        for name, counters in (("embed_d32_b8_h12x12_16", {"gflops", "peak_fraction"}),
                               ("embed_d32_b8_h12x12_128_ragged", {"gflops", "peak_fraction"}),
                               ("decode_d64_h32x8_4096", {"gbps", "limit_fraction"}),
                               ("decode_d128_h32x8_4096_bshd", {"gbps", "limit_fraction"}),
                               ("speedup_embed_d32_b8_h12x12_16", {"speedup", "cores_there"})):
            with self.subTest(name):
                notes, found = self.measure(name)
                self.assertEqual(set(found["NumPy"]["ways"]), {"right"})
                self.assertEqual(found["NumPy"]["counters"].keys(), counters)
                self.assertTrue(all(value > 0 for counter, value in found["NumPy"]["counters"].items() if counter != "cores_there"))
                self.assertTrue(any(note.startswith(f"{name}: NumPy, wrong: wrong answer: out[") for note in notes), notes)
                self.assertIn(f"{name}: NumPy, missing: not on this machine", notes)

    def test_a_peer_without_a_right_way_has_no_figure(self):
        notes, found = self.measure("embed_d32_b8_h12x12_16", NumPy("Broken", numpy.float32(1)))
        self.assertEqual(found.keys(), {"NumPy"})
        self.assertTrue(any("Broken, right: wrong answer" in note for note in notes))

    def test_a_known_way_is_taken_and_a_peer_without_one_searches_again(self):
        name = "embed_d32_b8_h12x12_16"
        results = list(peers.measure(self.machine, [NumPy(), NumPy("Other")], name, 1, {"NumPy": ["right"]}))
        self.assertEqual([(r["peer"], r["ways"]) for r in results if "peer" in r], [("NumPy", ["right"]), ("Other", ["right"])])
        self.assertEqual({r["note"].split(": ")[1] for r in results if "note" in r}, {"Other, wrong", "Other, missing"})

    def test_a_result_of_an_earlier_call_is_no_answer(self):
        class Lazy(NumPy):
            def ways(self, p, threads):
                call, answer = next(super().ways(p, threads))[1]()
                calls = []

                def once(index):
                    if not calls:
                        call(index)
                    calls.append(index)
                yield "lazy", lambda: (once, answer)
        results = list(peers.measure(self.machine, [Lazy()], "embed_d32_b8_h12x12_16", 1))
        self.assertEqual([r.get("peer") for r in results], [None])
        self.assertIn("nan", results[0]["note"])

    def test_one_thread_is_timed_in_cpu_time_and_more_in_wall_time(self):
        self.assertEqual([self.machine.clock(n) for n in (1, 2)], [time.process_time, time.perf_counter])

    def test_a_round_without_its_cores_is_held_again(self):
        machine = peers.Machine(LIBRARY, "reference")
        counted = iter([False, False, True] + [True] * 20)
        begun = []
        machine.gain_begin, machine.gain_counts = begun.append, lambda threads: next(counted)
        results = list(peers.measure(machine, [NumPy()], "speedup_embed_d32_b8_h12x12_16", 1))
        self.assertEqual(len(begun), machine.rounds + 2)
        self.assertEqual([r["peer"] for r in results if "peer" in r], ["NumPy"])

    def test_rounds_without_their_cores_do_not_count_if_another_has_them(self):
        class Timed:
            def __init__(self, *seconds):
                self.left = list(seconds)

            def seconds(self):
                return self.left.pop(0)
        machine = self.machine
        machine.rounds = 3
        machine.gain_begin = lambda threads: None
        for there, expected in (([False, True, False], {"speedup": 2.0, "cores_there": 1}), ([False] * 3, {"speedup": 1.25, "cores_there": 0}),
                                ([True] * 3, {"speedup": 1.25, "cores_there": 1})):
            machine.gain_counts = lambda threads, found=iter(there): next(found)
            self.assertEqual(peers.speedups([Timed(*[1.0] * 6)], [Timed(1.0, 0.5, 0.8)], machine, 2), [expected])

    def test_an_answer_of_another_type_or_size_is_wrong(self):
        problem = peers.Problem(self.machine, "embed_d32_b8_h12x12_16")
        call, answer = next(NumPy().ways(problem, 1))[1]()
        call(0)
        self.assertIsNone(problem.wrong(answer(), 0))
        self.assertIn("nan", problem.wrong(answer().astype("f8"), 0))
        self.assertIn("nan", problem.wrong(answer()[:1], 0))
        problem.close()

    def test_visible_keys_are_those_whose_flops_count(self):
        for name in ("causal_d128_h8x8_8192_w512", "dense_d128_h8x8_4096_mask64", "embed_d32_b8_h12x12_128_ragged"):
            p = peers.Problem(self.machine, name)
            seen = numpy.broadcast_to(p.visible(), (p.batch, 1, p.q_len, p.kv_len))
            self.assertEqual(int(seen.sum()) * p.q_heads * 2 * (p.head_dim + p.v_head_dim), p.work, name)

    def test_types_lie_as_they_should(self):
        for name, dtype in ("decode_d128_h32x8_4096_bf16", "u2"), ("decode_d128_h32x8_4096_f16", "f2"):
            p = peers.Problem(self.machine, name)
            k, v = p.keys_and_values(p.sets - 1)
            self.assertEqual((k.dtype, v.dtype, p.queries().dtype), (dtype,) * 3)
            self.assertEqual(p.work, k.nbytes + v.nbytes)

    def test_a_problem_in_pages_is_for_peers_that_have_pages(self):
        class Paged(NumPy):
            has_pages = True
        name = "decode_d128_h32x8_16384_pages16"
        p = peers.Problem(self.machine, name)
        self.assertEqual((p.page_keys, list(p.used()), p.tokens, p.block_table), (16, [16384], 0, None))
        p.close()
        results = list(peers.measure(self.machine, [NumPy(), Paged("Paged")], name, 1))
        self.assertEqual([(r["peer"], r["counters"].keys()) for r in results if "peer" in r], [("Paged", {"gbps", "limit_fraction"})])

    def test_gradients_are_for_peers_that_have_them_and_their_answer_is_checked(self):
        class Gradients(NumPy):
            has_gradients = True

            def ways(self, p, threads):
                def gradients(fault):
                    out = [None]

                    def call(index):
                        q, (k, v), dout = p.queries(), p.keys_and_values(index), p.rows(p.dout, p.v_head_dim)
                        weights = numpy.exp(q @ k.swapaxes(-1, -2) * p.head_dim ** -0.5)
                        weights /= weights.sum(-1, keepdims=True)
                        inner = dout @ v.swapaxes(-1, -2)
                        inner = weights * (inner - (weights * inner).sum(-1, keepdims=True)) * p.head_dim ** -0.5
                        found = inner @ k, inner.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ dout + fault
                        out[0] = numpy.concatenate([x.reshape(-1) for x in found])
                    return call, lambda: out[0]
                yield "right", lambda: gradients(numpy.float32(0))
                yield "wrong", lambda: gradients(numpy.float32(1e-3))
        notes, found = self.measure("backward_dense_d64_h8x8_1024", Gradients("Gradients"))
        self.assertEqual(list(found), ["Gradients"])
        self.assertEqual(found["Gradients"]["ways"], ["right"])
        self.assertGreater(found["Gradients"]["counters"]["peak_fraction"], 0)
        self.assertEqual(len(notes), 1)
        self.assertRegex(notes[0], "Gradients, wrong: dv")

    def test_a_better_instruction_set_is_that_of_the_type(self):
        hosts = {"Zen 3": ("avx2",), "Skylake": ("avx2", "avx512"), "Zen 4": ("avx2", "avx512", "avx512_bf16")}
        better = {(host, isa, type)
                  for host, runs in hosts.items() for isa in runs for type in ("f32", "bf16", "f16")
                  if self.has_better(isa, type, runs)}
        self.assertEqual(better, {(host, "avx2", type) for host in ("Skylake", "Zen 4") for type in ("f32", "bf16", "f16")}
                         | {("Zen 4", "avx512", "bf16")})

    def has_better(self, isa, type, runs):
        self.machine.isa, self.machine.runs = isa, runs.__contains__
        return self.machine.has_better(type)

    def test_who_cannot_be_kept_to_the_rows_instruction_set_is_left_out_where_the_host_has_a_better_one(self):
        class Free(NumPy):
            held_to_isa = False
        name = "embed_d32_b8_h12x12_16"
        self.assertEqual(list(self.measure(name, Free("Free"))[1]), ["NumPy", "Free"])
        self.machine.has_better = lambda type: type == "f32"
        self.assertEqual(list(self.measure(name, Free("Free"))[1]), ["NumPy"])

    def test_variables_keep_bf16_on_avx512_from_its_products(self):
        started = []

        def run(command, env, **_):
            started.append((command[4], json.loads(command[6]).keys(), env.get("DNNL_MAX_CPU_ISA")))
            return subprocess.CompletedProcess(command, 0, "", "")
        figures = [{"isa": isa, "threads": 1, "name": name, "counter": "gflops"}
                   for isa in ("avx2", "avx512", "avx512_bf16") for name in ("dense_d64_h8x8_4096", "dense_d64_h8x8_4096_bf16")]
        with mock.patch("peers.pythons", return_value={"here": "python3"}), mock.patch("subprocess.run", run), \
                mock.patch.dict("os.environ", clear=True):
            peers.run_pass(pathlib.Path("build"), figures)
        self.assertEqual([(isa, *names, most) for isa, names, most in started], [
            ("avx2", "dense_d64_h8x8_4096", "AVX2"), ("avx2", "dense_d64_h8x8_4096_bf16", "AVX2"),
            ("avx512", "dense_d64_h8x8_4096", None), ("avx512", "dense_d64_h8x8_4096_bf16", "AVX512_CORE_VNNI"),
            ("avx512_bf16", "dense_d64_h8x8_4096", None), ("avx512_bf16", "dense_d64_h8x8_4096_bf16", None)])

    def test_what_is_no_case_is_left_out(self):
        self.assertEqual(self.measure("callers8_d128_h8x8_512_and_h32x8_2048"), ([], {}))


if __name__ == "__main__":
    unittest.main()
