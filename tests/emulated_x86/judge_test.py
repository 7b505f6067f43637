# SPDX-License-Identifier: Apache-2.0
"""judge.py reports every way in which a guest can fail, and nothing else."""
import unittest

import judge

GOOD = """\
GUEST flags: avx avx2 avx512f avx512dq avx512ifma avx512cd avx512bw avx512vl
GUEST start: kernels_test
[==========] Running 2 tests from 2 test suites.
[ RUN      ] Rows/Gemm.Chain/gemm_f32_8x48_avx512
[       OK ] Rows/Gemm.Chain/gemm_f32_8x48_avx512 (772 ms)
[       OK ] Rows/Pack.Keys/pack_f32_avx512 (3 ms)
[  PASSED  ] 2 tests.
GUEST status: kernels_test 0
GUEST start: isa_report
avx512     ran, largest error 1.4e-07
GUEST status: isa_report 0
GUEST done
"""
JOBS = ["kernels_test", "isa_report"]
EXPECTED = ["gemm_f32_8x48_avx512", "pack_f32_avx512"]

# name: (text to replace, replacement, part of the fault reported)
BAD = {
    "no_avx512f": (" avx512f", "", "does not offer avx512f"),
    "no_avx512vl": (" avx512vl\n", "\n", "does not offer avx512vl"),
    "no_avx_at_all": (" avx avx2 avx512f avx512dq avx512ifma avx512cd avx512bw avx512vl", " ", "has: nothing"),
    "never_booted": (GOOD, "", "did not come to its end"),
    "failed_status": ("kernels_test 0", "kernels_test 1", "kernels_test ended with status 1"),
    "illegal_instruction": ("isa_report 0", "isa_report 132", "isa_report ended with status 132"),
    "no_status": ("GUEST status: isa_report 0\n", "", "isa_report did not come to an end"),
    "job_never_started": ("GUEST start: kernels_test\n", "", "kernels_test did not come to an end"),
    "no_done": ("GUEST done\n", "", "did not come to its end"),
    "done_of_something_else": ("GUEST done\n", "not GUEST done\n", "did not come to its end"),
    "no_test_ran": ("Running 2 tests from 2", "Running 0 tests from 0", "kernels_test ran no test"),
    "row_without_a_test": ("[       OK ] Rows/Pack.Keys/pack_f32_avx512 (3 ms)\n", "", "no test of pack_f32_avx512 passed"),
    "row_failed": ("[       OK ] Rows/Pack", "[  FAILED  ] Rows/Pack", "no test of pack_f32_avx512 passed"),
    "row_started_only": ("[       OK ] Rows/Gemm", "[ RUN      ] Rows/Gemm", "no test of gemm_f32_8x48_avx512 passed"),
}


class Judge(unittest.TestCase):
    def test_a_good_guest_meets_no_objection(self):
        self.assertEqual(judge.objections(GOOD, JOBS, EXPECTED), [])

    def test_each_shortcoming_is_named(self):
        for name, (old, new, objection) in BAD.items():
            with self.subTest(name):
                self.assertIn(old, GOOD)
                found = judge.objections(GOOD.replace(old, new), JOBS, EXPECTED)
                self.assertTrue(any(objection in one for one in found), found)

    def test_it_is_over_when_done_or_dead_and_not_before(self):
        self.assertTrue(judge.is_over(GOOD))
        self.assertTrue(judge.is_over("[    1.2] Kernel panic - not syncing: Attempted to kill init!"))
        self.assertFalse(judge.is_over(GOOD.replace("GUEST done\n", "")))


if __name__ == "__main__":
    unittest.main()
