#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tests of the A64FX model: what it reads from a disassembly, the cycles that the models give for loops worked out by hand, and
how pipelines are composed. Needs the model's tools."""

import contextlib
import io
import pathlib
import re
import tempfile
import tomllib
import unittest

import cycles
import loops
import pipelines
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

    def test_every_row_of_the_tables_has_a_loop(self):
        found, gemm = loops.find(), loops.ROOT / "kernels/gemm"
        # Tiles of f16 products are those of a panel.
        panel_of = dict(re.findall(r"^KUMIKO_HALF_GEMM\((\w+)_sve512, (\w+)_sve512,", (gemm / "arm_sve512_half.cpp").read_text(), re.MULTILINE))
        self.assertTrue(panel_of)
        for table in ("panels.inc", "kernels.inc"):
            rows = re.findall(r"^KUMIKO_\w+\((\w+)_sve512,", (gemm / table).read_text(), re.MULTILINE)
            self.assertGreater(len(rows), 2)
            self.assertEqual([row for row in rows if panel_of.get(row, row) not in found], [])


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
        found = {name: loop for name, loop in loops.find().items() if name in ("panel_f16_12x2_4k", "panel_f32_8x3_unroll4")}
        self.assertEqual(len(found), 2)
        with tempfile.TemporaryDirectory() as folder:
            store = pathlib.Path(folder) / "results.json"
            first = cycles.analyse_all(found, store)
            self.assertEqual(cycles.analyse_all(found, store), first)  # from the store
        for name, by_model in first.items():
            for model, figure in by_model.items():
                with self.subTest(name, model=model):
                    self.assertAlmostEqual(figure, 12, delta=0.24)


class Pipelines(unittest.TestCase):
    CYCLES = {"panel_f32_8x3_unroll4": 12, "panel_f32_8x3_unroll4_load_c": 10, "panel_f32_8x3_unroll4_store_c": 20,
              "panel_f32_8x2": 9, "panel_f32_8x2_load_c": 7, "panel_f32_8x2_store_c": 13,
              "rows_exp2_panel_f32_f32": 0.5, "rows_max_f32": 0.03, "rows_multiply_f32_f32": 0.1, "rows_panel_sum_f32": 0.07}

    def test_tiles_cover_the_columns(self):
        for d, want in ((64, [32, 32]), (128, [48, 48, 32]), (256, [48] * 4 + [32] * 2), (512, [48] * 10 + [32])):
            self.assertEqual([columns for columns, *_ in pipelines.tiles_for(d, "f32")], want)
        self.assertEqual([columns for columns, *_ in pipelines.tiles_for(256, "f16")], [96, 96, 64])

    def test_sums_by_hand(self):
        # Tiles of 48, 48 and 32 columns, each with its start and its pieces, and 8 * 256 exponentials; 32 multiply-adds a cycle.
        work = 256 * (12 + 12 + 9) + 2 * (40 + 30) + (40 + 20) + 0.5 * 8 * 256
        row = pipelines.estimates(self.CYCLES)["exp2_and_product_f32_nc256_d128"]
        self.assertAlmostEqual(row["fraction_loops"], 8 * 256 * 128 / 32 / work)
        traffic = 256 * 128 * 4 + 8 * 256 * 4
        self.assertAlmostEqual(row["fraction_exposed_64"], 8 * 256 * 128 / 32 / (work + traffic / 64))
        self.assertEqual(row["fraction_hidden_64"], row["fraction_loops"])
        whole = work + 8 * 256 * (0.03 + 0.07) + 8 * 128 * 0.1
        row = pipelines.estimates(self.CYCLES)["two_pass_f32_nc256_d128"]
        self.assertAlmostEqual(row["fraction_loops"], 8 * 256 * 128 / 32 / whole)

    def test_what_is_larger_than_l2_comes_from_memory(self):
        phase = pipelines.Phase("x", 10, 1800, 8 << 20)
        self.assertEqual(phase.time(64, True), 100)
        self.assertEqual(phase.time(64, False), 110)

    def test_what_is_assumed_stands_under_the_table(self):
        rows = pipelines.estimates(self.CYCLES)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            pipelines.show(rows)
        for text in (f"START = {pipelines.START} cycles", f"KC = {pipelines.KC['f32']} keys", f"{pipelines.KC['f16']} in f16",
                     f"{pipelines.MEMORY_RATE} bytes a cycle from memory", f"{pipelines.L2_BYTES >> 20} MiB of L2"):
            self.assertIn(text, out.getvalue())

    def test_the_group_names_what_it_assumes(self):
        where = tomllib.loads((loops.ROOT / "bench/groups.toml").read_text())["a64fx"]["where"]
        for number in (pipelines.START, *pipelines.KC.values(), pipelines.L2_RATES[0], pipelines.MEMORY_RATE):
            self.assertRegex(where, rf"\b{number}\b")
        for model in (*cycles.JUDGED, "slots"):
            self.assertIn(model, where)

    def test_a_case_without_its_loops_is_left_out(self):
        self.assertEqual([name for name in pipelines.estimates(self.CYCLES) if "f32" not in name], [])


if __name__ == "__main__":
    unittest.main()
