# SPDX-License-Identifier: Apache-2.0
"""Proves that the closing summary counts what passed and nothing else, and fails when an ISA is left out."""
import tempfile
import unittest
from pathlib import Path

import isa_summary

TREE = {
    "kernels/cpu.h": "inline constexpr Isa kIsas[] = {Isa::avx512, Isa::avx2, Isa::reference};\n",
    "kernels/gemm/kernels.inc": "// KUMIKO_GEMM(name, isa, mr)\nKUMIKO_GEMM(gemm_8_avx512, avx512, 8)\nKUMIKO_GEMM(gemm_4_avx512, avx512, 4)\n"
                                "KUMIKO_GEMM(gemm_avx2, avx2, 4)\nKUMIKO_GEMM(gemm_reference, reference, 4)\n",
    "kernels/pipelines/kernels.inc": "KUMIKO_PIPELINE(online)\n",
}
BOTH = "avx512      ran, largest error 1e-07\navx2        ran, largest error 1e-07\nreference   ran, largest error 1e-07\n"
NO_AVX512 = BOTH.replace("avx512      ran, largest error 1e-07", "avx512      not run: isa avx512 needs AVX-512 F")
ROWS = ["gemm_8_avx512", "gemm_4_avx512", "gemm_avx2", "gemm_reference"]
ISAS = ["avx512", "avx2", "reference"]


def native_log(tests, verdict="       OK "):
    return "".join(f"[{verdict}] {name}\n" for name in tests)


FULL = [f"Rows/Gemm.Chain/{row}" for row in ROWS] + [f"Isa/Sweep.Lengths/{isa}" for isa in ISAS] + ["Cpu.NamesParseBack"]
AVX512 = [name for name in FULL if name.endswith("avx512")]
EMULATED = "# emulated by bochs\nGUEST flags: avx512f\n" + "".join(f"[       OK ] {name} (3 ms)\n" for name in AVX512)


class Summary(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        for name, text in TREE.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text(text)

    def summary(self, report, logs, only="", prefix=""):
        arguments = []
        for i, log in enumerate(logs):
            (self.root / f"{i}.log").write_text(log)
            arguments.append(f"{prefix}{self.root}/{i}.log")
        lines, good = isa_summary.summary(self.root, report, [isa_summary.read(a) for a in arguments], only)
        return "\n".join(lines), good

    def test_all_natively(self):
        text, good = self.summary(BOTH, [native_log(FULL)])
        self.assertTrue(good, text)
        self.assertIn("avx512      ran natively: 2 of 2 kernels in 2 tests, attention in 1 tests", text)
        self.assertIn("avx2        ran natively: 1 of 1 kernels in 1 tests, attention in 1 tests", text)
        self.assertEqual(len(text.splitlines()), 3)

    def test_attention_in_another_product_is_for_those_that_have_rows_of_it(self):
        (self.root / "kernels/decode").mkdir()
        (self.root / "kernels/decode/kernels.inc").write_text(
            "// KUMIKO_DECODE(name, isa, product)\nKUMIKO_DECODE(decode_half_avx2, avx2, f16)\nKUMIKO_DECODE(decode_half, reference, f16)\n")
        rows = [f"Rows/HalfDecode.Chain/{row}" for row in ("decode_half_avx2", "decode_half")]
        attention = [f"Half/Half.Chunks/{isa}" for isa in ("avx2", "reference")]
        text, good = self.summary(BOTH, [native_log(FULL + rows + attention)])
        self.assertTrue(good, text)
        self.assertIn("avx512      ran natively: 2 of 2 kernels in 2 tests, attention in 1 tests", text)
        self.assertIn("avx2        ran natively: 2 of 2 kernels in 2 tests, attention in 2 tests", text)
        text, good = self.summary(BOTH, [native_log(FULL + rows + attention[:1])])
        self.assertFalse(good)
        self.assertIn("not passed: Half/Half.Chunks/reference", text)
        self.assertNotIn("Half/Half.Chunks/avx512", text)

    def test_a_row_that_needs_more_than_its_isa_may_be_absent(self):
        (self.root / "kernels/int8").mkdir()
        (self.root / "kernels/int8/kernels.inc").write_text(
            "// KUMIKO_INT8(name, isa, extension, mr)\nKUMIKO_INT8(int8_vnni, avx2, vnni, 4)\nKUMIKO_INT8(int8_avx2, avx2, none, 4)\n")
        tests = ["Rows/Int8.Chain/int8_avx2", "Rows/Int8.Other/int8_avx2"]
        text, good = self.summary(BOTH, [native_log(FULL + tests)])
        self.assertTrue(good, text)
        text, good = self.summary(BOTH, [native_log(FULL + tests + ["Rows/Int8.Chain/int8_vnni"])])
        self.assertFalse(good)
        self.assertIn("not passed: Rows/Int8.Other/int8_vnni", text)

    def test_what_the_machine_lacks_is_named_with_its_reason(self):
        without = [name for name in FULL if name not in AVX512]
        text, good = self.summary(NO_AVX512, [native_log(without)])
        self.assertTrue(good, text)
        self.assertIn("avx512      not run: isa avx512 needs AVX-512 F", text)

    def test_emulated(self):
        without = [name for name in FULL if name not in AVX512]
        text, good = self.summary(NO_AVX512, [native_log(without), EMULATED])
        self.assertTrue(good, text)
        self.assertIn("avx512      ran emulated by bochs: 2 of 2 kernels", text)
        self.assertNotIn("not run", text)

    def test_a_log_can_be_of_an_emulated_run(self):
        text, good = self.summary(NO_AVX512, [native_log(FULL)], prefix="emulated by qemu-user=")
        self.assertIn("avx512      ran emulated by qemu-user", text)
        self.assertFalse(good, "avx2 is here and ran only emulated")

    def test_a_row_without_a_passed_test_fails_however_it_ran(self):
        for missing in ["Rows/Gemm.Chain/gemm_4_avx512", "Isa/Sweep.Lengths/avx512"]:
            with self.subTest(missing):
                text, good = self.summary(BOTH, [native_log([name for name in FULL if name != missing])])
                self.assertFalse(good)
                self.assertIn(f"not passed: {missing}", text)
        emulated = EMULATED.replace("[       OK ] Rows/Gemm.Chain/gemm_4_avx512", "[ RUN      ] Rows/Gemm.Chain/gemm_4_avx512")
        text, good = self.summary(NO_AVX512, [native_log(FULL[2:4] + FULL[5:]), emulated])
        self.assertFalse(good)
        self.assertIn("FAILED emulated by bochs: 1 of 2 kernels", text)

    def test_an_isa_with_a_data_type_is_a_test_of_its_own(self):
        types = [f"Isa/Dtype.Heads/{dtype}_{isa}" for isa in ISAS for dtype in ["bf16", "f16"]]
        text, good = self.summary(BOTH, [native_log(FULL + types)])
        self.assertTrue(good, text)
        self.assertIn("avx2        ran natively: 1 of 1 kernels in 1 tests, attention in 3 tests", text)
        text, good = self.summary(BOTH, [native_log(FULL + [name for name in types if name != "Isa/Dtype.Heads/f16_avx2"])])
        self.assertFalse(good)
        self.assertIn("not passed: Isa/Dtype.Heads/f16_avx2", text)

    def test_an_isa_whose_name_is_another_ones_and_a_data_type(self):
        (self.root / "kernels/cpu.h").write_text(TREE["kernels/cpu.h"].replace("{Isa::", "{Isa::avx512_bf16, Isa::"))
        types = [f"Isa/Dtype.Heads/bf16_{isa}" for isa in ["avx2", "reference"]]
        natively = native_log([name for name in FULL if name not in AVX512] + types)
        text, good = self.summary(NO_AVX512, [natively, EMULATED + "[       OK ] Isa/Dtype.Heads/bf16_avx512 (3 ms)\n"])
        self.assertTrue(good, text)
        self.assertIn("attention in 2 tests", text)
        self.assertIn("avx512_bf16 not run", text)

    def replaced(self, report, tests):
        (self.root / "kernels/cpu.h").write_text(TREE["kernels/cpu.h"].replace("{Isa::", "{Isa::avx512_bf16, Isa::"))
        with (self.root / "kernels/gemm/kernels.inc").open("a") as table:
            table.write("KUMIKO_GEMM(gemm_8_avx512_bf16, avx512_bf16, 8)\nKUMIKO_GEMM(gemm_4_avx512_bf16, avx512_bf16, 4)\n")
        return self.summary(report, [native_log(FULL + tests)])

    REPLACED = [f"vdpbf16ps_replaced/Rows/Gemm.Chain/gemm_{mr}_avx512_bf16" for mr in (8, 4)] + ["vdpbf16ps_replaced/Isa/Dtype.Heads/bf16_avx512_bf16"]

    def test_rows_with_an_instruction_replaced_are_not_the_rows_themselves(self):
        text, good = self.replaced("avx512_bf16 not run: this machine lacks BF16\n" + BOTH, self.REPLACED)
        self.assertTrue(good, text)
        self.assertIn("avx512_bf16 not run: this machine lacks BF16\n", text)
        self.assertIn("avx512_bf16 ran natively, AVX512_BF16 replaced by AVX-512 F and BW: 2 of 2 kernels in 2 tests, attention in 1 tests\n", text)
        text, good = self.replaced("avx512_bf16 ran, largest error 1e-07\n" + BOTH, self.REPLACED)
        self.assertFalse(good, "not a row ran as it is")
        self.assertIn("avx512_bf16 FAILED: this machine has it, and no test of it ran", text)

    def test_what_is_never_run_replaced_fails(self):
        for missing, said in [(self.REPLACED[1], self.REPLACED[1]), (self.REPLACED[2], "any attention test of avx512_bf16")]:
            tests = [name for name in self.REPLACED if name != missing]
            text, good = self.replaced("avx512_bf16 not run: this machine lacks BF16\n" + BOTH, tests)
            self.assertFalse(good)
            self.assertIn(f"not passed: {said}", text)

    def test_a_guests_replaced_rows_are_told_by_the_programs_name(self):
        (self.root / "kernels/cpu.h").write_text(TREE["kernels/cpu.h"].replace("{Isa::", "{Isa::avx512_bf16, Isa::"))
        guest = "GUEST start: vdpbf16ps_replaced_dtype_test\n[       OK ] Isa/Dtype.Heads/bf16_avx512_bf16 (3 ms)\nGUEST start: dtype_test\n"
        without = [name for name in FULL if name not in AVX512]
        text, good = self.summary(NO_AVX512, [native_log(without), EMULATED.replace("GUEST flags", guest + "GUEST flags")])
        self.assertTrue(good, text)
        self.assertIn("avx512      ran emulated by bochs: 2 of 2 kernels", text)
        self.assertIn("avx512_bf16 ran emulated by bochs, AVX512_BF16 replaced by AVX-512 F and BW: 0 of 0 kernels in 0 tests, attention in 1 tests", text)

    def test_without_a_program_of_this_machine(self):
        text, good = self.summary("", [native_log([])], only="only the preset fuzz was run")
        self.assertTrue(good, text)
        self.assertIn("avx512      not run: only the preset fuzz was run", text)

    def test_an_emulated_isa_needs_attention_too(self):
        natively = native_log([name for name in FULL if name not in AVX512])
        text, good = self.summary(NO_AVX512, [natively, EMULATED.replace("[       OK ] Isa/", "[ RUN      ] Isa/")])
        self.assertFalse(good)
        self.assertIn("not passed: any attention test of avx512", text)
        text, good = self.summary(NO_AVX512, [natively, EMULATED.replace("[       OK ] Isa/", "[  FAILED  ] Isa/")])
        self.assertFalse(good)
        self.assertIn("failed: Isa/Sweep.Lengths/avx512", text)
        # Fewer of them than natively is as it should be.
        text, good = self.summary(NO_AVX512, [natively + native_log(["Isa/Accuracy.Naive/avx2", "Isa/Accuracy.Naive/reference"]), EMULATED])
        self.assertTrue(good, text)

    def test_a_table_without_any_test_fails(self):
        (self.root / "kernels/decode").mkdir()
        (self.root / "kernels/decode/kernels.inc").write_text("KUMIKO_DECODE(decode_avx2, avx2, 8)\n")
        text, good = self.summary(BOTH, [native_log(FULL)])
        self.assertFalse(good)
        self.assertIn("not passed: any test of decode_avx2", text)

    def test_an_isa_of_this_machine_that_no_test_touched_fails(self):
        text, good = self.summary(BOTH, [native_log([name for name in FULL if name not in AVX512])])
        self.assertFalse(good)
        self.assertIn("avx512      FAILED: this machine has it, and no test of it ran", text)

    def test_skipped_and_failed_tests_do_not_count(self):
        bad = native_log(FULL[:1], "  SKIPPED ")
        text, good = self.summary(BOTH, [native_log(FULL[1:]) + bad])
        self.assertFalse(good)
        self.assertIn(f"not passed: {FULL[0]}", text)
        self.assertNotIn("failed: ", text)
        bad = native_log(FULL[:1], "  FAILED  ")
        text, good = self.summary(BOTH, [native_log(FULL[1:]) + bad])
        self.assertFalse(good)
        self.assertIn(f"failed: {FULL[0]}", text)

    def test_a_failure_in_one_log_is_not_hidden_by_success_in_another(self):
        text, good = self.summary(BOTH, [native_log(FULL, "  FAILED  "), native_log(FULL)])
        self.assertFalse(good)
        self.assertIn("FAILED natively", text)

    def test_part_of_the_tests(self):
        text, good = self.summary(BOTH, [native_log([]), EMULATED], only="only the emulated tests ran")
        self.assertTrue(good, text)
        self.assertIn("avx512      not run natively: only the emulated tests ran", text)
        self.assertIn("avx512      ran emulated by bochs", text)
        self.assertIn("avx2        not run natively: only the emulated tests ran", text)

    def test_part_of_the_tests_may_lack_some_natively(self):
        text, good = self.summary(BOTH, [native_log([*FULL[:3], "Isa/Sweep.Lengths/avx2"])], only="only the preset tsan was run")
        self.assertTrue(good, text)
        self.assertIn("avx512      ran natively: 2 of 2 kernels in 2 tests, attention in 0 tests", text)
        self.assertIn("reference   not run natively: only the preset tsan was run", text)

    def test_a_wrong_answer_of_the_report_fails(self):
        text, good = self.summary(BOTH.replace("avx2        ran, largest", "avx2        FAILED: error"), [native_log(FULL)])
        self.assertFalse(good, text)


if __name__ == "__main__":
    unittest.main()
