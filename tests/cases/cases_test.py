# SPDX-License-Identifier: Apache-2.0
"""cases.py on what ctest and GoogleTest write: every case counts once, and nothing that went wrong is lost.

    cases_test.py PROGRAM    a program of GoogleTest whose cases all pass
"""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import cases


def told(*suites):
    """GoogleTest's JSON of (suite, case, result, failures)."""
    return json.dumps({"testsuites": [{"name": suite, "testsuite": [{"name": case, "status": "RUN", "result": result, **failures}]}
                                      for suite, case, result, failures in suites]})


FAILURE = {"failures": [{"failure": "x.cpp:1\nno", "type": ""}]}


class Cases(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def run_ctest(self, *tests):
        """[(case, result)] of a run of (name, command, properties...), each left to a shell."""
        lines = []
        for name, command, *properties in tests:
            lines.append(f'add_test("{name}" sh -c [=[{command}]=])')
            lines += [f'set_tests_properties("{name}" PROPERTIES {words})' for words in properties]
        (self.folder / "CTestTestfile.cmake").write_text("\n".join(lines))
        junit = self.folder / "junit.xml"
        done = subprocess.run(["ctest", "--output-junit", junit], cwd=self.folder, capture_output=True, text=True, check=False)
        self.assertTrue(junit.is_file(), done.stdout + done.stderr)
        return [(name, result) for name, result, _ in cases.cases(junit, self.folder / "cases")]

    def shard(self, name, text):
        """A command that leaves `text` where the test `name` has its account."""
        path = self.folder / "cases" / f"{name}.json"
        (self.folder / "text").mkdir(exist_ok=True)
        source = self.folder / "text" / f"{len(list((self.folder / 'text').iterdir()))}"
        source.write_text(text)
        return f"mkdir -p '{path.parent}' && cp '{source}' '{path}'"

    def test_tests_of_ctest_alone(self):
        found = self.run_ctest(
            ("passes", "echo '[  FAILED  ] No.Case'"),
            ("a/passes  # GetParam() = 1", "exit 0"),
            ("fails", "echo '[       OK ] No.Case'; exit 3"),
            ("crashes", "kill -SEGV $$"),
            ("hangs", "sleep 60", "TIMEOUT 0.1"),
            ("skips", "exit 77", "SKIP_RETURN_CODE 77"),
            ("skips_by_word", "echo '[  SKIPPED ]'", r'SKIP_REGULAR_EXPRESSION "\\[  SKIPPED \\]"'),
            ("disabled", "exit 1", "DISABLED TRUE"),
            ("without_its_file", "exit 0", "REQUIRED_FILES /nowhere"),
        )
        self.assertEqual(found, [("passes", cases.OK), ("a/passes", cases.OK), ("fails", cases.FAILED), ("crashes", cases.FAILED),
                                 ("hangs", cases.FAILED), ("skips", cases.SKIPPED), ("skips_by_word", cases.SKIPPED),
                                 ("without_its_file", cases.FAILED)])

    def test_the_cases_of_a_program_with_their_prefix(self):
        two = told(("Rows/Gemm", "Chain/avx2", "COMPLETED", {}), ("Isa/Sweep", "Lengths/avx2", "SKIPPED", {}))
        found = self.run_ctest(("replaced/gemm_test:1of2", self.shard("replaced/gemm_test:1of2", two)),
                               ("scheduler.gemm_test:2of2", self.shard("scheduler.gemm_test:2of2", two)),
                               ("gemm_test:2of2", self.shard("gemm_test:2of2", told())))
        self.assertEqual(found, [("replaced/Rows/Gemm.Chain/avx2", cases.OK), ("replaced/Isa/Sweep.Lengths/avx2", cases.SKIPPED),
                                 ("scheduler.Rows/Gemm.Chain/avx2", cases.OK), ("scheduler.Isa/Sweep.Lengths/avx2", cases.SKIPPED)])

    def test_a_case_that_fails(self):
        text = told(("A", "Fails", "COMPLETED", FAILURE), ("A", "Passes", "COMPLETED", {}))
        for status in (0, 1):  # Whatever the program says of itself.
            found = self.run_ctest(("a_test:1of1", f"{self.shard('a_test:1of1', text)}; exit {status}"))
            self.assertEqual(found, [("A.Fails", cases.FAILED), ("A.Passes", cases.OK)])

    def test_a_program_without_an_account_has_failed(self):
        for command in ("kill -SEGV $$", "exit 0"):
            self.assertEqual(self.run_ctest(("a_test:1of1", command)), [("a_test:1of1", cases.FAILED)])

    def test_a_program_that_fails_after_its_last_case_has_failed(self):
        text = told(("A", "Passes", "COMPLETED", {}))
        found = self.run_ctest(("a_test:1of1", f"{self.shard('a_test:1of1', text)}; exit 1"))
        self.assertEqual(found, [("A.Passes", cases.OK), ("a_test:1of1", cases.FAILED)])

    def test_every_case_of_a_program_in_shards_is_there_once(self):
        listed, suite = [], ""
        for line in subprocess.run([PROGRAM, "--gtest_list_tests"], capture_output=True, text=True, check=True).stdout.splitlines()[1:]:
            if line.startswith(" "):
                listed.append((f"{suite}{line.split()[0]}", cases.OK))
            else:
                suite = line.split()[0]
        self.assertGreater(len(listed), 3)
        shards = [(f"support_test:{i + 1}of3", f"GTEST_TOTAL_SHARDS=3 GTEST_SHARD_INDEX={i} exec '{PROGRAM}' "
                   f"--gtest_output=json:'{self.folder}/cases/support_test:{i + 1}of3.json'") for i in range(3)]
        self.assertEqual(sorted(self.run_ctest(*shards)), sorted(listed))


if __name__ == "__main__":
    PROGRAM = sys.argv.pop(1)
    unittest.main()
