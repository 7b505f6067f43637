# SPDX-License-Identifier: Apache-2.0
"""Every source, header, script, CMake and Python file names the licence of LICENSE in its first five lines."""

import pathlib
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
LINE = "SPDX-License-Identifier: Apache-2.0"
PLACES = (".ci", "CMakeLists.txt", "bench", "cmake", "distributed", "examples", "kernels", "python", "runtime", "scheduler", "scripts", "tests", "tools")
# Data, settings and prose. All other files need the line, including new kinds of file.
DATA = {".cfg", ".gz", ".json", ".md", ".pyc", ".svg", ".toml", ".txt", ".xml"}
DATA_NAMES = {"bochsrc"}


def needs_line(path):
    return path.name == "CMakeLists.txt" or path.suffix not in DATA and path.name not in DATA_NAMES


def has_line(path):
    """The licence as the last words of a line, apart from the end of a comment."""
    lines = path.read_text(encoding="utf-8").splitlines()[:5]
    return any(line.removesuffix("-->").removesuffix("*/").rstrip().endswith(LINE) for line in lines)


def sources():
    for place in PLACES:
        path = ROOT / place
        for file in (path,) if path.is_file() else sorted(path.rglob("*")):
            if file.is_file() and needs_line(file):
                yield file


class Licence(unittest.TestCase):
    def test_the_licence_is_that_of_the_file(self):
        self.assertRegex((ROOT / "LICENSE").read_text(), r"\A\s*Apache License\s+Version 2\.0,")

    def test_every_source_names_it(self):
        found = list(sources())
        self.assertGreater(len(found), 450)
        self.assertEqual([path.relative_to(ROOT).as_posix() for path in found if not has_line(path)], [])

    def test_what_counts_as_naming_it(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "a.h"
            for text, named in ((f"// {LINE}\n", True), (f"<!-- {LINE} -->\n", True), (f"// {LINE}-only\n", False),
                                ("\n" * 4 + f"# {LINE}\n", True), ("\n" * 5 + f"# {LINE}\n", False), ("// SPDX-License-Identifier: MIT\n", False)):
                path.write_text(text)
                self.assertEqual(has_line(path), named, text)

    def test_files_of_a_new_kind_need_it(self):
        for name, needed in (("CMakeLists.txt", True), ("packages.txt", False), ("run", True), ("a.zig", True), ("a.json", False)):
            self.assertEqual(needs_line(pathlib.Path(name)), needed, name)


if __name__ == "__main__":
    unittest.main()
