# SPDX-License-Identifier: Apache-2.0
"""Sources and scripts as CONTRIBUTING asks for them, and no instruction set's code where another machine might run it:

    lint_test.py FILE    a file with the paths of the kernels' object files, one a line
"""

import pathlib
import re
import subprocess
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def output(*command):
    """What the command prints; of one that fails, at least a line that says so."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout + (f"{command[0]} ended with {done.returncode}\n" if done.returncode != 0 else "")


def files(*patterns):
    return sorted(str(path.relative_to(ROOT)) for pattern in patterns for folder in
                  ("bench", "distributed", "examples", "kernels", "python", "runtime", "scheduler", "tests", "tools") for path in (ROOT / folder).rglob(pattern))


def scripts():
    """Every file that begins with #! and a shell's name."""
    places = [ROOT / ".ci" / "run", *(ROOT / "scripts").iterdir(), *(ROOT / name for name in files("*"))]
    for path in places:
        if path.is_file():
            with path.open("rb") as file:
                first = file.readline(80)
            if re.match(rb"#!.*\b(ba|da|a)?sh\b", first):
                yield str(path.relative_to(ROOT))


def weak_functions(listing):
    """Functions of `nm --defined-only` that the linker may take from this object file for the whole program."""
    return [line for line in listing.splitlines() if re.match(r"^[0-9a-f]+ [Wu] ", line)]


class Lint(unittest.TestCase):
    def test_sources_are_formatted(self):
        found = files("*.cpp", "*.h", "*.c")
        self.assertGreater(len(found), 300)
        self.assertEqual(output("clang-format", "--dry-run", "-Werror", *found), "")

    def test_shell_scripts_have_no_fault_that_shellcheck_knows(self):
        found = list(scripts())
        self.assertIn("scripts/demo", found)
        self.assertEqual(output("shellcheck", "-x", *found), "")

    def test_inline_functions_do_not_leave_an_instruction_sets_file(self):
        """The linker keeps one of several definitions of an inline function: an AVX-512 one would end a program on an older
        machine with an illegal instruction."""
        objects = [path for path in OBJECTS if re.search(r"/(x86|arm)_\w+\.cpp\.o$", path)]
        self.assertGreater(len(objects), 10)
        for path in objects:
            listing = output("nm", "-C", "--defined-only", path)
            self.assertRegex(listing, r"(?m)^[0-9a-f]+ [TDR] ", path)
            self.assertEqual(weak_functions(listing), [], path)

    def test_weak_functions_are_seen(self):
        listing = "0000000000000000 W std::swap(float&, float&)\n0000000000000000 V DW.ref.__gxx_personality_v0\n0000000000000010 T kernel"
        self.assertEqual(weak_functions(listing), ["0000000000000000 W std::swap(float&, float&)"])


if __name__ == "__main__":
    OBJECTS = pathlib.Path(sys.argv.pop(1)).read_text().split()
    unittest.main()
