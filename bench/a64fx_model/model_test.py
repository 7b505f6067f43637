#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tests of the A64FX model: what it reads from a disassembly, the cycles that the models give for loops worked out by hand, what it makes
of an execution log, and how calls are composed. Needs the model's tools."""

import pathlib
import re
import tempfile
import tomllib
import unittest
from unittest import mock

import calls
import cycles
import executed
import loops
import regions
import slots

DISASSEMBLY = """
0000000000000000 <tile_init>:
   0:	2518e3e0 	ptrue	p0.b

0000000000000020 <tile_init.loop.k2>:
  20:	fmla	z0.s, p0/m, z24.s, z27.s
  24:	ld1rw	{z27.s}, p0/z, [x10, #20]   // a comment
  28:	b.ge	20 <tile_init.loop.k2>  // b.tcont

000000000000002c <tile_init.loop_end>:
  2c:	ret
"""


def chain(registers, count):
    """FMLAs that use `registers` accumulators in turn."""
    return [f"fmla z{i % registers}.s, p0/m, z30.s, z31.s" for i in range(count)]


class Loops(unittest.TestCase):
    def test_a_marked_loop_is_found(self):
        loop, = loops.parse(DISASSEMBLY)
        self.assertEqual((loop.name, loop.unit, loop.count), ("tile_init", "k", 2))
        self.assertEqual(loop.instructions, ("fmla z0.s, p0/m, z24.s, z27.s", "ld1rw {z27.s}, p0/z, [x10, #20]", "b.ge ."))
        self.assertEqual(loop.bound, 0.25)

    def test_a_loop_without_end_is_an_error(self):
        with self.assertRaisesRegex(ValueError, "tile_init: no label tile_init.loop_end"):
            loops.parse(DISASSEMBLY.replace("<tile_init.loop_end>", "<other>"))

    def test_every_row_of_the_table_has_a_loop(self):
        found, gemm = loops.find(), loops.ROOT / "kernels/gemm"
        rows = re.findall(r"^KUMIKO_\w+\((\w+)_sve512,", (gemm / "kernels.inc").read_text(), re.MULTILINE)
        self.assertTrue(rows)
        self.assertEqual([row for row in rows if row not in found], [])


class Cycles(unittest.TestCase):
    MODELS = {
        "mca": cycles.mca,
        "narrow": lambda instructions: cycles.mca(instructions, cycles.NARROW),
        "osaca": cycles.osaca,
        "slots": slots.cycles,
    }

    def test_one_chain_takes_the_latency(self):
        for name, model in self.MODELS.items():
            with self.subTest(name):
                self.assertAlmostEqual(model(chain(1, 4)), 36, delta=0.5)

    def test_many_chains_take_two_a_cycle(self):
        for name, model in self.MODELS.items():
            with self.subTest(name):
                self.assertAlmostEqual(model(chain(24, 24)), 12, delta=0.1)

    def test_elements_by_index_take_twice_the_time(self):
        by_index = [f"fmla z{i}.s, z30.s, z7.s[0]" for i in range(8, 32) if i not in (30, 31)]
        self.assertAlmostEqual(cycles.mca(by_index), 22, delta=0.5)

    def test_the_decoder_sends_every_second_slot_to_one_pipe(self):
        alternating = [i for n, fmla in enumerate(chain(24, 24)) for i in (fmla, f"ld1w {{z{24 + n % 4}.s}}, p0/z, [x{n % 8}]")]
        self.assertAlmostEqual(slots.cycles(alternating), 24, delta=0.5)
        self.assertAlmostEqual(cycles.mca(alternating), 12, delta=0.5)
        in_pairs = [i for n in range(0, 48, 4) for i in (alternating[n], alternating[n + 2], alternating[n + 1], alternating[n + 3])]
        self.assertAlmostEqual(slots.cycles(in_pairs), 12, delta=0.5)

    def test_an_unknown_instruction_has_no_figure(self):
        self.assertIsNone(slots.cycles(["histcnt z0.s, p0/z, z1.s, z2.s"]))
        self.assertIsNone(cycles.osaca(["histcnt z0.s, p0/z, z1.s, z2.s", *chain(2, 2)]))

    def test_best_rows_meet_the_promise(self):
        found = {name: loop for name, loop in loops.find().items() if name in ("gemm_f16_13x64", "gemm_f32_8x48")}
        self.assertEqual(len(found), 2)
        with tempfile.TemporaryDirectory() as folder:
            store = pathlib.Path(folder) / "results.json"
            first = cycles.analyse_all(found, store)
            self.assertEqual(cycles.analyse_all(found, store), first)  # from the store
            store.write_text(store.read_text()[:99])  # as a run leaves it that ended while it wrote
            self.assertEqual(cycles.analyse_all(found, store), first)
        for name, by_model in first.items():
            for model, figure in by_model.items():
                with self.subTest(name, model=model):
                    self.assertAlmostEqual(figure / found[name].bound, 1, delta=0.02)


# A loop of two instructions at 0x100 that is entered with the block before it, 10 turns, 3 times; marks at 0x10 and 0x20.
LOG = b"""----------------
IN: marked
0x0010:  c0035fd6  .byte
----------------
IN: f
0x00f8:  1f2003d5  .byte
0x00fc:  1f2003d5  .byte
0x0100:  00e4004f  .byte
0x0104:  00000054  .byte
----------------
IN: f
0x0100:  00e4004f  .byte
0x0104:  00000054  .byte
----------------
IN: f
0x0108:  00000054  .byte
Trace 0: 0x7f [0/00000000000000f8/0/0]
Trace 0: 0x7f [0/0000000000000010/0/0]
""" + 3 * (b"Trace 0: 0x7f [0/00000000000000f8/0/0]\n" + 9 * b"Trace 0: 0x7f [0/0000000000000100/0/0]\n" + b"Trace 0: 0x7f [0/0000000000000108/0/0]\n"
           ) + b"""Trace 0: 0x7f [0/0000000000000020/0/0]
Trace 0: 0x7f [0/00000000000000f8/0/0]
"""


class Executed(unittest.TestCase):
    def counts(self):
        blocks, steps, words = executed.read(iter(LOG.splitlines(keepends=True)), 0x10, 0x20)
        return executed.Counts(blocks, steps, {at: ["nop"] * len(code) for at, code in words.items()})

    def test_blocks_between_the_marks_are_counted(self):
        counts = self.counts()
        self.assertEqual(counts.blocks, {0xf8: 3, 0x100: 27, 0x108: 3})
        self.assertEqual((counts.steps[0xf8, 0x100], counts.steps[0x100, 0x100], counts.steps[0x108, 0xf8]), (3, 24, 2))
        self.assertEqual(counts.instructions(), 3 * 4 + 27 * 2 + 3)

    def test_the_first_turn_of_a_loop_counts_as_one(self):
        counts = regions.split(self.counts())
        self.assertEqual(counts.blocks, {0xf8: 3, 0x100: 30, 0x108: 3})
        self.assertEqual(counts.instructions(), self.counts().instructions())

    def test_loops_with_their_turns_and_visits(self):
        found = regions.find(self.counts(), lambda at: "f")
        inner, outer = found
        self.assertEqual((inner.name, inner.turns, inner.visits, len(inner.instructions)), ("f+100", 30, 3, 2))
        self.assertEqual((outer.name, outer.turns, outer.visits, len(outer.instructions)), ("f+0f8", 3, 0, 3))
        self.assertEqual(regions.worth_a_model(found, 0.5), [inner])

    def test_two_lengths_give_a_longer_one(self):
        counts = self.counts()
        once = executed.Counts(counts.blocks, {(1, 2): 10, (2, 3): 4}, {2: [], 3: []})
        twice = executed.Counts(counts.blocks, {(1, 2): 20, (2, 3): 4}, {2: [], 3: []})
        self.assertEqual(executed.combine([(7, twice), (-6, once)]).steps, {(1, 2): 80, (2, 3): 4})

    def test_names_are_short(self):
        self.assertEqual(executed.short("kumiko::kernels::(anonymous namespace)::store_tile<A<B>, float>(kumiko::kernels::X const&)"), "store_tile")
        self.assertEqual(executed.short("gemm_f32_8x48_sve512_init.loop.k4"), "gemm_f32_8x48_init.loop.k4")


class Emulator(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def emulator(self, text):
        """A script in the place of the emulator: after -D, $5, comes the log."""
        program = self.folder / "emulator"
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
        return mock.patch.object(executed, "EMULATOR", (str(program), "-cpu", "a64fx"))

    def test_one_that_ends_before_it_opens_its_log(self):
        with self.emulator("echo no such item >&2; exit 1"), self.assertRaisesRegex(executed.CallFailed, "attention: no such item"):
            executed.run(["attention"], "program", 0x10, 0x20)

    def test_the_log_is_read(self):
        (self.folder / "log").write_bytes(LOG)
        with self.emulator(f'[ "$5" = -D ] && exec cat "{self.folder}/log" >"$6"'), mock.patch.object(executed, "disassemble", dict):
            self.assertEqual(executed.run(["attention"], "program", 0x10, 0x20).blocks, {0xf8: 3, 0x100: 27, 0x108: 3})

    def test_a_stored_count_that_is_not_whole_is_made_again(self):
        program, counts = self.folder / "program", executed.Counts({2: 7}, {(1, 2): 7}, {2: ["nop"]})
        program.write_bytes(b"program")
        with mock.patch.object(executed, "Names"), mock.patch.object(executed, "run", lambda *_: counts):
            self.assertEqual(executed.count(["x"], program, self.folder / "store"), counts)
            kept, = (self.folder / "store").iterdir()
            kept.write_text(kept.read_text()[:5])
            self.assertEqual(executed.count(["x"], program, self.folder / "store"), counts)


class Bounds(unittest.TestCase):
    def test_each_resource_bounds(self):
        self.assertEqual(regions.bound(["fadd z0.s, z1.s, z2.s"] * 8), 4)
        self.assertEqual(regions.bound(["zip1 z0.s, z1.s, z2.s"] * 8), 8)
        self.assertEqual(regions.bound(["st1w {z0.s}, p0, [x0]"] * 2 + ["ld1w {z0.s}, p0/z, [x0]"] * 2), 3)
        self.assertEqual(regions.bound(["add x0, x0, x1"] * 8), 2)
        self.assertIsNone(regions.bound(["histcnt z0.s, p0/z, z1.s, z2.s"]))


class Calls(unittest.TestCase):
    def test_a_call_is_turns_and_starts_and_the_rest(self):
        case = calls.Case("x_f32", "f32", [], flop=64 * 1000, l2_bytes=64 * 100)
        text, rare = ("fadd z0.s, z1.s, z2.s",), ("add x0, x0, x1",)
        found = [regions.Region("a", text, 996, 3, 996), regions.Region("b", rare, 4, 0, 4)]
        one = calls.estimate(case, found, {text: {"mca": 1.0, "narrow": 2.0, "osaca": None, "slots": 9.0}})
        self.assertAlmostEqual(one.covered, 0.996)
        self.assertAlmostEqual(one.cycles, 996 * 2 + 3 * regions.START + 4)
        self.assertAlmostEqual(one.fraction, 1000 / one.cycles)
        case.l2_bytes = 64 * 10000
        one = calls.estimate(case, found, {text: {"mca": 1.0, "narrow": 2.0, "osaca": None, "slots": 9.0}})
        self.assertAlmostEqual(one.fraction, 0.1)

    def test_a_long_call_is_made_of_two_short_ones(self):
        parts = calls.dense("attention", "f32", 128, 4096)
        self.assertEqual([call[6:9] for _, call in parts], [(144, 1024, 128), (96, 1024, 128), (144, 512, 128), (96, 512, 128)])
        # A cost of a task, of its blocks of keys, of its tiles, and of each tile and block.
        total = sum(weight * (7 + 11 * keys / 256 + 13 * rows / 48 + 17 * rows / 48 * keys / 256) for weight, (*_, rows, keys, _) in parts)
        self.assertAlmostEqual(total, 4096 / 768 * (7 + 11 * 16 + 13 * 16 + 17 * 16 * 16))
        (more, long), (less, short) = calls.causal("half", 128, 4096)
        self.assertAlmostEqual(more * long[7] + less * short[7], 4 * (1024 + 4096) / 2)

    def test_gradients_of_many_blocks_are_made_of_few(self):
        """A cost of every pair, block and position, with a rest of 64 positions that takes longer."""
        def cost(length):
            blocks, rest = divmod(length, 576)
            return 1000 * blocks * blocks + 170 * blocks * (rest > 0) + 31 * (rest > 0) + 50 * blocks + 7 * (rest > 0)

        parts = calls.gradient_parts(128, 4096)
        self.assertEqual([arguments[6:9] for _, arguments in parts], [(n, n, 128) for n in (1152, 576, 640, 64)])
        self.assertAlmostEqual(sum(weight * cost(arguments[6]) for weight, arguments in parts), cost(4096))

    def test_every_row_of_the_group_is_a_call(self):
        names = {case.name for case in calls.cases()}
        tables = tomllib.loads((loops.ROOT / "bench/groups.toml").read_text())["a64fx"]["tables"]
        rows = [row for table in tables for row in table["rows"]]
        wanted = {row["benchmark"]: row.get("target", 0) for row in rows if row["benchmark"].startswith(("attention_", "softmax_", "fused_", "backward_"))}
        self.assertEqual(set(wanted), {name for name in names if not name.startswith("decode")})
        self.assertEqual(wanted, {case.name: case.target for case in calls.cases() if case.name in wanted})

    def test_the_group_names_what_it_assumes(self):
        where = tomllib.loads((loops.ROOT / "bench/groups.toml").read_text())["a64fx"]["where"]
        for number in (regions.START, calls.L2_RATE, calls.MEMORY_RATE):
            self.assertRegex(where, rf"\b{number}\b")
        for model in (*cycles.JUDGED, "slots"):
            self.assertIn(model, where)


if __name__ == "__main__":
    unittest.main()
