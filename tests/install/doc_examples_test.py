# SPDX-License-Identifier: Apache-2.0
"""README and docs: every marked program equals the file that it names, builds against the installed package and exits 0.

    doc_examples_test.py CMAKE BUILD WORK CC CXX
"""

import sys
import tempfile
import unittest
from pathlib import Path

from doc_examples import examples_in, examples_of
from package import HERE, ROOT, Package

package = None
HELLO = "examples/hello_attention/hello_attention.cpp"


class Extraction(unittest.TestCase):
    def test_marked_blocks_are_found(self):
        text = "a\n<!-- example: x.cpp -->\n```cpp\nint main() {}\n```\n```c\nint x;\n```\n<!-- example -->\n```c\nint main(void)\n```\n"
        examples, problems = examples_of(text, "P.md")
        self.assertEqual([(e.where, e.language, e.code, e.file) for e in examples],
                         [("P.md:3", "cpp", "int main() {}\n", "x.cpp"), ("P.md:10", "c", "int main(void)\n", None)])
        self.assertEqual(problems, [])

    def test_unmarked_program_is_a_problem(self):
        self.assertEqual(len(examples_of("```cpp\nint main() {}\n```\n", "P.md")[1]), 1)

    def test_a_block_that_differs_from_its_file_is_a_problem(self):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            (root / "a.cpp").write_text("int a;\n")
            for code, wrong in (("int a;\n", 0), ("int  a;\n", 1)):
                (root / "README.md").write_text(f"<!-- example: a.cpp -->\n```cpp\n{code}```\n")
                self.assertEqual(len(examples_in(root)[1]), wrong)
            (root / "a.cpp").write_text("// SPDX-License-Identifier: MIT\nint a;\n// SPDX-License-Identifier: MIT\n")
            for code, wrong in (("int a;\n// SPDX-License-Identifier: MIT\n", 0), ("int a;\n", 1)):
                (root / "README.md").write_text(f"<!-- example: a.cpp -->\n```cpp\n{code}```\n")
                self.assertEqual(len(examples_in(root)[1]), wrong)
            (root / "README.md").write_text("<!-- example: b.cpp -->\n```cpp\n```\n")
            self.assertIn("there is no b.cpp", examples_in(root)[1][0])


class Pages(unittest.TestCase):
    def test_no_page_has_a_problem(self):
        self.assertEqual(examples_in(ROOT)[1], [])

    def test_readme_shows_hello_attention(self):
        self.assertIn(HELLO, [e.file for e in examples_in(ROOT)[0] if e.where.startswith("README.md")])

    def test_each_example_builds_and_runs(self):
        for number, example in enumerate(examples_in(ROOT)[0]):
            with self.subTest(example.where):
                source = package.work / f"example_{number}"
                source.mkdir(exist_ok=True)
                name = "main.cpp" if example.language == "cpp" else "main.c"
                (source / name).write_text(example.code)
                if example.language == "cpp":
                    lists = (HERE / "consumer_cpp" / "CMakeLists.txt").read_text()
                    (source / "CMakeLists.txt").write_text(lists)
                    program = package.cmake_program(source, f"example_{number}_build")
                else:
                    program = package.pkg_config_program(source / name, f"example_{number}_program")
                self.assertNotEqual(package.run([program]), "")


if __name__ == "__main__":
    cmake, build, work, cc, cxx = sys.argv[1:6]
    package = Package(cmake, Path(build), Path(work), "static", cc, cxx)
    unittest.main(argv=sys.argv[:1], verbosity=2)
