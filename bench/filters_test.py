#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""filters_test.py BIN: each --benchmark_filter of a page or a script names a benchmark of its program, which is in the folder BIN."""

import pathlib
import re
import shlex
import subprocess
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
COMMAND = re.compile(r"(?P<program>\w+_bench)\"?\s+--benchmark_filter=(?P<filter>'[^']*'|[^\s`]+)")
FILES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("*.sh")))


def commands(text):
    """(program, filter) of each command; a place for a name, <name>, is none."""
    found = ((m["program"], shlex.split(m["filter"])[0]) for m in COMMAND.finditer(text) if "<" not in m["filter"])
    # A job for an A64FX is written on another machine: there its rows are those of the best instruction set.
    return [(program, pattern.replace("/sve512/", "/avx2/")) for program, pattern in found]


class Filters(unittest.TestCase):
    def test_commands_are_found(self):
        text = "`build/bench/a_bench --benchmark_filter='^b.*/c'`, `d_bench --benchmark_filter=^e_` and \"$build/f_bench\" --benchmark_filter=g\n"
        self.assertEqual(commands(text), [("a_bench", "^b.*/c"), ("d_bench", "^e_"), ("f_bench", "g")])
        self.assertEqual(commands("h_bench --benchmark_filter=<name>"), [])

    def test_each_names_a_benchmark(self):
        found = [(path, *command) for path in FILES for command in commands(path.read_text())]
        self.assertIn("examples/a64fx/fugaku_job.sh", {str(path.relative_to(ROOT)) for path, _, _ in found})
        for path, program, pattern in found:
            with self.subTest(file=str(path.relative_to(ROOT)), filter=pattern):
                listed = subprocess.run([BIN / program, "--benchmark_list_tests=true", f"--benchmark_filter={pattern}"], capture_output=True, text=True)
                self.assertEqual(listed.returncode, 0, listed.stderr)
                self.assertRegex(listed.stdout, rf"(?m){pattern}")


if __name__ == "__main__":
    BIN = pathlib.Path(sys.argv.pop(1))
    unittest.main()
