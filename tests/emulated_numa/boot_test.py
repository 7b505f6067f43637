# SPDX-License-Identifier: Apache-2.0
"""boot.py must be able to fail."""

import unittest

import boot

RAN = "guest: /numa_test\n[  PASSED  ] 9 tests.\n"


class Verdict(unittest.TestCase):
    def status(self, console):
        return boot.verdict(console)[0]

    def test_only_a_machine_that_says_so_has_passed(self):
        self.assertEqual(self.status(RAN + "guest: exit 0\n"), 0)

    def test_failures_count(self):
        self.assertEqual(self.status(RAN + "[  FAILED  ] 1 test\nguest: exit 1\n"), 1)

    def test_a_machine_that_stopped_early_has_failed(self):
        self.assertEqual(self.status(""), 1)
        self.assertEqual(self.status(RAN), 1)
        self.assertEqual(self.status(RAN + "Kernel panic - not syncing: guest: exit 0 never came\n"), 1)

    def test_a_machine_without_tests_has_failed(self):
        self.assertEqual(self.status("guest: exit 0\n"), 1)

    def test_a_suite_without_tests_has_failed(self):
        none = "guest: /numa_test --gtest_filter=Renamed.*\n[==========] Running 0 tests from 0 test suites.\n[  PASSED  ] 0 tests.\n"
        self.assertEqual(self.status(none + "guest: exit 0\n"), 1)
        self.assertEqual(self.status(RAN + none + "guest: exit 0\n"), 1)

    def test_two_verdicts_are_none(self):
        self.assertEqual(self.status(RAN + "guest: exit 0\nguest: exit 0\n"), 1)


class Machine(unittest.TestCase):
    def test_has_the_shape_of_an_a64fx(self):
        arguments = " ".join(boot.machine_arguments())
        self.assertIn("-smp 48,", arguments)
        for cpus in ("nodeid=0,memdev=m0,cpus=0-11", "nodeid=3,memdev=m3,cpus=36-47"):
            self.assertIn(cpus, arguments)
        self.assertEqual(arguments.count("-numa dist"), 6)


if __name__ == "__main__":
    unittest.main()
