# SPDX-License-Identifier: Apache-2.0
"""tidy.py finds a fault in a source and in a header, checks what has changed again, and skips what has not and had no findings."""

import json
import pathlib
import tempfile
import unittest
from unittest import mock

import tidy

SOUND = "#pragma once\ninline int twice(int x) { return 2 * x; }\n"
FAULTY = "#pragma once\ninline bool same(int x) { return x == x; }\n"


class Tidy(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        (self.root / "kernels").mkdir()
        (self.root / ".clang-tidy").write_text((tidy.ROOT / ".clang-tidy").read_text())
        patch = mock.patch.object(tidy, "ROOT", self.root)
        patch.start()
        self.addCleanup(patch.stop)

    def findings(self, header, source=""):
        (self.root / "kernels" / "a.h").write_text(header)
        path = self.root / "kernels" / "a.cpp"
        path.write_text(f'#include "kernels/a.h"\n{source}')
        command = f"c++ -O3 -Wall -I{self.root} -isystem /usr/include -std=c++20 -c {path}"
        (self.root / "compile_commands.json").write_text(json.dumps([{"file": str(path), "command": command}]))
        return "".join(tidy.findings(self.root, *unit) for unit in tidy.units(tidy.sources(self.root)))

    def test_a_fault_is_found_in_source_and_header(self):
        self.assertEqual(self.findings(SOUND), "")
        self.assertIn("misc-redundant-expression", self.findings(FAULTY))
        self.assertIn("misc-redundant-expression", self.findings(SOUND, "bool same(int x) { return x == x; }\n"))

    def test_what_does_not_compile_is_a_finding(self):
        self.assertIn("clang-diagnostic-error", self.findings(SOUND, "int x = y;\n"))

    def test_what_has_no_findings_is_remembered_until_it_changes(self):
        self.assertEqual(self.findings(SOUND), "")
        with mock.patch.object(tidy, "TIDY", "/bin/echo"):
            self.assertIn("library", self.findings(SOUND))  # another clang-tidy
        run = tidy.subprocess.run
        with mock.patch.object(tidy.subprocess, "run", side_effect=lambda *words, **options: run(*words, **options)) as calls:
            self.findings(SOUND)
            self.assertEqual(calls.call_count, 1)  # its version
            self.findings(FAULTY)
            self.assertEqual(calls.call_count, 3)

    def test_files_of_a_group_of_modules_are_one_unit(self):
        found = {name: ["-std=c++20"] for name in ("kernels/a.cpp", "runtime/b.cpp", "tools/topology/c.cpp")}
        self.assertEqual(tidy.units(found), [("library", ["kernels/a.cpp", "runtime/b.cpp"], ["-std=c++20"]),
                                             ("programs", ["tools/topology/c.cpp"], ["-std=c++20"])])

    def test_intrinsics_and_coroutines_are_left_out(self):
        names = ("kernels/gemm/x86_avx2.cpp", "kernels/gemm/reference.cpp", "examples/inference_server/http_server.cpp", "tests/a.cpp")
        listed = [{"file": str(self.root / name), "command": f"c++ -c {name}"} for name in names]
        (self.root / "compile_commands.json").write_text(json.dumps(listed))
        self.assertEqual(list(tidy.sources(self.root)), ["kernels/gemm/reference.cpp"])


if __name__ == "__main__":
    unittest.main()
